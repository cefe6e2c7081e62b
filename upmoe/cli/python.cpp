#include "upmoe/cli/python.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
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
#include "upmoe/io/file_descriptor.h"

extern char** environ;

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

// Like `-m upmoe`, but never looks into the current folder, and says what to do where the package is missing.
constexpr const char* kUpmoe = R"(
import sys
sys.path[:] = [place for place in sys.path if place]
try:
    from upmoe.__main__ import main
except ImportError as error:
    sys.exit(f"upmoe: the Python package upmoe is not installed for {sys.executable} ({error}): "
             "'make build' does it, or in the source tree: pip install ./python")
sys.exit(main())
)";

std::vector<std::string> upmoe_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"-c", kUpmoe};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

// Points into the strings, which have to outlive it.
std::vector<char*> argv_of(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  return argv;
}

[[noreturn]] void fail_to_run(const std::string& python, int error) {
  fail("cannot run {}: {}; set UPMOE_PYTHON to a Python that has huggingface_hub and tokenizers",
       printable(python), std::strerror(error));
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

struct Streams {  // that a child gets; negative: ours
  int in = -1, out = -1, error = -1;
  bool hears_signals = true;  // Ctrl-C goes to everybody in front of a terminal
};

pid_t start(const std::vector<std::string>& arguments, const Streams& streams) {
  const std::string python = find_python();
  const std::vector<char*> argv = argv_of(python, arguments);
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
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, python.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) fail_to_run(python, error);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

PythonOutcome run(const std::vector<std::string>& arguments, std::string_view input, int standard_error) {
  std::array<int, 2> ends{};
  require(::pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}", ErrnoText{});
  FileDescriptor in(ends[0]), out(ends[1]);
  const FileDescriptor to_read = memory_file(input);
  const pid_t child = start(arguments, {to_read.get(), out.get(), standard_error});
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
  if (sentence.empty()) sentence = fmt::format("Python failed with exit code {}", code);
  if (code == kInterrupted) throw Interrupted(sentence);
  if (code == kUsage) throw UsageError(sentence);
  throw Error(sentence);
}

}  // namespace

std::string find_python() {
  if (const char* named = std::getenv("UPMOE_PYTHON")) return named;
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (; folder.has_relative_path(); folder = folder.parent_path())
    if (const fs::path python = folder / ".venv/bin/python"; fs::exists(python, error))
      return python.string();
  return "python3";
}

PythonOutcome run_python(const std::vector<std::string>& arguments, std::string_view input) {
  return run(arguments, input, /*standard_error=*/-1);
}

std::string run_upmoe_python(const std::vector<std::string>& arguments, std::string_view input) {
  const FileDescriptor said = memory_file("");
  PythonOutcome outcome = run(upmoe_arguments(arguments), input, said.get());
  throw_failure(outcome.code, said);
  return std::move(outcome.output);
}

PythonFilter::PythonFilter(const std::vector<std::string>& arguments) : said_(memory_file("")) {
  std::array<int, 2> ends{};
  require(::pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}", ErrnoText{});
  const FileDescriptor to_read(ends[0]);
  input_ = FileDescriptor(ends[1]);
  child_ =
      start(upmoe_arguments(arguments), {.in = to_read.get(), .error = said_.get(), .hears_signals = false});
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
  const std::string python = find_python();
  const std::vector<std::string> all = upmoe_arguments(arguments);
  const std::vector<char*> argv = argv_of(python, all);
  ::execvp(python.c_str(), argv.data());
  fail_to_run(python, errno);
}

}  // namespace upmoe::cli
