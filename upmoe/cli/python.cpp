#include "upmoe/cli/python.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/commands.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/output.h"
#include "upmoe/cli/surroundings.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

// What every program below begins with: nothing is imported from the current folder (safe_environment() says
// so to Python 3.11 and later), and a parent that is killed takes Python along. Its first arguments are the
// parent, or 0, and words about a .venv that was passed over. Where UPMOE_PYTHON is a script that does not
// `exec`, Python dies with that script, which need not die with us.
constexpr const char* kBegin = R"(
import sys
sys.path[:] = [place for place in sys.path if place]
import os
parent = int(sys.argv.pop(1))
passed_over = sys.argv.pop(1)
if parent:
    started_by = os.getppid()
    try:
        import ctypes
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    except (ImportError, OSError, AttributeError):
        pass
    gone = os.getppid() != started_by or (started_by == 1 and parent != 1)
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        gone = True
    except PermissionError:
        pass
    if gone:
        sys.exit("upmoe: what started this Python is gone")
)";

// Like `-m upmoe`, and says what to do where the package is missing.
constexpr const char* kUpmoe = R"(
try:
    from upmoe.__main__ import main
except ImportError as error:
    sys.exit(f"upmoe: the Python package upmoe is not installed for {sys.executable} ({error}){passed_over}: "
             "'make build' does it, or in the source tree: pip install ./python")
sys.exit(main())
)";

struct Python {
  std::string path;
  std::string passed_over;  // words for an error, about a .venv that was not taken
};

// Of a Python that runs `program`, which sees the arguments as sys.argv[1:].
std::vector<std::string> command_line(const Python& python, const char* program, pid_t parent,
                                      const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {python.path, "-c", std::string(kBegin) + program, std::to_string(parent),
                                  python.passed_over};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

// Points into the strings, which have to outlive it.
std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& string : strings) out.push_back(const_cast<char*>(string.c_str()));
  out.push_back(nullptr);
  return out;
}

// In front of it, for a Python that interrupts do not reach: until here they were blocked.
constexpr const char* kIgnoreInterrupts = R"(
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
)";

constexpr const char* kNeeded = "huggingface_hub and tokenizers";

[[noreturn]] void fail_to_run(const std::string& python, int error) {
  fail("cannot run {}: {}; set UPMOE_PYTHON to a Python that has {}", printable(python), std::strerror(error),
       kNeeded);
}

// Whether nobody may put something there but us, root, who owns this program, and their group: /tmp/.venv is
// anybody's.
bool is_ours(const fs::path& path) {
  struct stat info {
  }, program{};
  return ::stat(path.c_str(), &info) == 0 && (info.st_mode & S_IWOTH) == 0 &&
         (info.st_uid == 0 || info.st_uid == ::geteuid() ||
          (::stat(own_program().c_str(), &program) == 0 && info.st_uid == program.st_uid));
}

// Of a .venv, with the folder that it is in and the program that is run.
bool is_our_venv(const fs::path& folder, const fs::path& python) {
  return is_ours(folder) && is_ours(folder / ".venv") && is_ours(python.parent_path()) && is_ours(python);
}

// A file in memory with this text, at its start.
FileDescriptor memory_file(std::string_view text) {
  FileDescriptor file(::memfd_create("upmoe", MFD_CLOEXEC));
  require(file.get() >= 0, "cannot make a file in memory: {}", ErrnoText{});
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t put = ::write(file.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    require(put > 0, "cannot write a file in memory: {}", ErrnoText{});
    done += static_cast<std::size_t>(put);
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

std::string read_all(const FileDescriptor& file) {
  std::string text;
  std::array<char, 4096> some{};
  for (ssize_t got = 1; got != 0;) {
    got = ::read(file.get(), some.data(), some.size());
    if (got > 0)
      text.append(some.data(), static_cast<std::size_t>(got));
    else if (got < 0 && errno != EINTR)
      break;
  }
  return text;
}

// UPMOE_PYTHON, or .venv of the source tree that the program was built in, or python3: a path. A name alone
// is looked for in PATH, and never in the current folder. Throws Error where there is none.
Python find_python() {
  Python out;
  std::string name = "python3";
  if (const char* named = std::getenv("UPMOE_PYTHON"); named != nullptr && *named != '\0') {
    name = named;
    if (name.find('/') != std::string::npos) return {name, ""};
  } else {
    fs::path folder = own_program().parent_path();
    require(!folder.empty(),
            "cannot see where this program lies, whose .venv has the Python to run: /proc is missing; set "
            "UPMOE_PYTHON");
    for (; folder.has_relative_path(); folder = folder.parent_path()) {
      const fs::path python = folder / ".venv/bin/python";
      if (std::error_code ignored; !fs::exists(python, ignored)) continue;
      if (is_our_venv(folder, python)) return {python.string(), ""};
      if (out.passed_over.empty())
        out.passed_over = fmt::format("; {} was passed over, because others can write to it or its folder",
                                      printable((folder / ".venv").string()));
    }
  }
  out.path = find_program(name);
  require(!out.path.empty(), "there is no {} in PATH{}; set UPMOE_PYTHON to a Python that has {}",
          printable(name), out.passed_over, kNeeded);
  return out;
}

struct PythonOutcome {
  int code = 0;  // of its exit; 128 + the signal that ended it
  std::string output;
};

struct Streams {  // that a child gets; negative: ours
  int in = -1, out = -1, error = -1;
  bool hears_signals = true;  // Ctrl-C goes to everybody in front of a terminal
};

pid_t start(const char* program, const std::vector<std::string>& arguments, const Streams& streams) {
  const Python python = find_python();
  const std::vector<std::string> words = command_line(python, program, ::getpid(), arguments);
  const std::vector<std::string> environment = safe_environment();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (streams.in >= 0) posix_spawn_file_actions_adddup2(&actions, streams.in, STDIN_FILENO);
  if (streams.out >= 0) posix_spawn_file_actions_adddup2(&actions, streams.out, STDOUT_FILENO);
  if (streams.error >= 0) posix_spawn_file_actions_adddup2(&actions, streams.error, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&blocked, signal);
  if (!streams.hears_signals) {
    posix_spawnattr_setsigmask(&attributes, &blocked);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  }
  const Uninterrupted until_it_is_noted;
  pid_t child = 0;
  const int error = ::posix_spawn(&child, python.path.c_str(), &actions, &attributes, pointers(words).data(),
                                  pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) fail_to_run(python.path, error);
  note_child(child);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  siginfo_t ended{};
  while (::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
  }
  forget_child(child);  // before its number is free for another one
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

PythonOutcome run(const char* program, const std::vector<std::string>& arguments, std::string_view input,
                  int standard_error) {
  std::array<int, 2> ends{};
  require(::pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}", ErrnoText{});
  FileDescriptor in(ends[0]), out(ends[1]);
  const FileDescriptor to_read = memory_file(input);
  const pid_t child = start(program, arguments, {to_read.get(), out.get(), standard_error});
  out = FileDescriptor(-1);
  std::string output = read_all(in);
  return {wait_for(child), std::move(output)};
}

// Our package's notes go to standard error, and the sentence that it failed with is thrown.
void throw_failure(int code, const FileDescriptor& said) {
  ::lseek(said.get(), 0, SEEK_SET);
  std::string text = read_all(said), sentence;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string line = text.substr(0, end);
    text.erase(0, end + 1);
    if (line.starts_with("upmoe: "))
      sentence = line.substr(7);
    else
      std::fputs((line + "\n").c_str(), stderr);
  }
  if (code == kOk) return;
  if (code == kReaderGone) throw ReaderGone();
  if (sentence.empty()) sentence = fmt::format("Python failed with exit code {}", code);
  if (code == kInterrupted) throw Interrupted(sentence);
  if (code == kUsage) throw UsageError(sentence);
  throw Error(sentence);
}

}  // namespace

std::string run_python(const char* program, const std::vector<std::string>& arguments) {
  return run(program, arguments, /*input=*/"", /*standard_error=*/-1).output;
}

std::string run_upmoe_python(const std::vector<std::string>& arguments, std::string_view input) {
  const FileDescriptor said = memory_file("");
  PythonOutcome outcome = run(kUpmoe, arguments, input, said.get());
  throw_failure(outcome.code, said);
  return std::move(outcome.output);
}

PythonFilter::PythonFilter(const std::vector<std::string>& arguments) : said_(memory_file("")) {
  std::array<int, 2> ends{};
  require(::pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}", ErrnoText{});
  const FileDescriptor to_read(ends[0]);
  input_ = FileDescriptor(ends[1]);
  child_ = start((std::string(kIgnoreInterrupts) + kUpmoe).c_str(), arguments,
                 {.in = to_read.get(), .error = said_.get(), .hears_signals = false});
}

PythonFilter::~PythonFilter() {
  input_ = FileDescriptor(-1);
  if (child_ > 0) wait_for(child_);
}

void PythonFilter::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(input_.get(), text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      finish();  // says why it does not read
      fail("Python stopped reading");
    }
    text.remove_prefix(static_cast<std::size_t>(put));
  }
}

void PythonFilter::finish() {
  input_ = FileDescriptor(-1);
  throw_failure(wait_for(std::exchange(child_, 0)), said_);
}

void become_upmoe_python(const std::vector<std::string>& arguments) {
  const Python python = find_python();
  const std::vector<std::string> words = command_line(python, kUpmoe, /*parent=*/0, arguments);
  const std::vector<std::string> environment = safe_environment();
  hold_interrupts();  // while Python starts
  ::execve(python.path.c_str(), pointers(words).data(), pointers(environment).data());
  fail_to_run(python.path, errno);
}

}  // namespace upmoe::cli
