#include "upmoe/cli/interrupt.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "upmoe/cli/commands.h"
#include "upmoe/cli/terminal.h"

namespace upmoe::cli {
namespace {

constexpr std::array kInterrupts = {SIGINT, SIGTERM, SIGHUP};

std::atomic<bool> interrupted = false, only_flag = false, on_terminal = false;
enum Hold { kNone, kHeld, kHeldAndInterrupted };
std::atomic<Hold> hold = kNone;  // of an Uninterrupted
std::array<std::atomic<pid_t>, 8> children{};
std::atomic<const char*> temporary_folder = nullptr;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<Hold>::is_always_lock_free &&
                  std::atomic<pid_t>::is_always_lock_free && std::atomic<const char*>::is_always_lock_free,
              "a signal handler may only use what needs no lock");

// From here to on_signal only what a signal handler may call (man 7 signal-safety).
void end_children() {
  for (const std::atomic<pid_t>& child : children)
    if (child > 0) ::kill(child, SIGKILL);
  for (const std::atomic<pid_t>& child : children)
    if (child > 0) ::waitpid(child, nullptr, 0);
}

void remove_temporary_folder() {
  const char* const path = temporary_folder;
  if (path == nullptr) return;
  // A child's child dies a moment after it, and may have made a file until then.
  for (int tries = 0; tries < 1000; ++tries) {
    const int folder = ::open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (const char* const name : kTemporaryFiles) ::unlinkat(folder, name, 0);
    ::close(folder);
    if (::rmdir(path) == 0 || errno != ENOTEMPTY) return;
    const timespec millisecond{0, 1'000'000};
    ::nanosleep(&millisecond, nullptr);
  }
}

void say(const char* what) {
  if (::write(STDERR_FILENO, what, std::strlen(what)) < 0) return;  // there is nobody to tell
}

extern "C" void on_signal(int /*signal*/) {
  const int before = errno;
  if (Hold held = kHeld; hold.compare_exchange_strong(held, kHeldAndInterrupted) || held != kNone) return;
  const bool again = interrupted.exchange(true);
  if (only_flag && !again) {
    errno = before;
    return;
  }
  end_children();
  remove_temporary_folder();
  if (on_terminal) say("\r\033[K");
  say(only_flag ? "upmoe: interrupted again, and ended at once\n"
                : "upmoe: interrupted; nothing was left behind\n");
  ::_exit(kInterrupted);
}

sigset_t interrupts() {
  sigset_t out;
  sigemptyset(&out);
  for (const int signal : kInterrupts) sigaddset(&out, signal);
  return out;
}

}  // namespace

void end_when_interrupted() {
  on_terminal = is_terminal(STDERR_FILENO);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  const sigset_t held = interrupts();
  action.sa_mask = held;
  for (const int signal : kInterrupts) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // nohup stays what it is
  }
  pthread_sigmask(SIG_UNBLOCK, &held, nullptr);
}

const std::atomic<bool>& catch_interrupts() {
  only_flag = true;
  return interrupted;
}

void hold_interrupts() {
  const sigset_t held = interrupts();
  pthread_sigmask(SIG_BLOCK, &held, nullptr);
}

Uninterrupted::Uninterrupted() { hold = kHeld; }
Uninterrupted::~Uninterrupted() {
  if (hold.exchange(kNone) == kHeldAndInterrupted) on_signal(0);
}

void note_child(pid_t child) {
  for (std::atomic<pid_t>& place : children) {
    pid_t none = 0;
    if (place.compare_exchange_strong(none, child)) return;
  }
}

void forget_child(pid_t child) {
  for (std::atomic<pid_t>& place : children) {
    pid_t it = child;
    if (place.compare_exchange_strong(it, 0)) return;
  }
}

void note_temporary_folder(const char* path) { temporary_folder = path; }

}  // namespace upmoe::cli
