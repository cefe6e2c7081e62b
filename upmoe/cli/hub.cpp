#include "upmoe/cli/hub.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <regex>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/io/file_descriptor.h"

extern char** environ;

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

// Prints "ok PATH" or "no REASON". Names come as arguments, never as text of the program.
constexpr const char* kDownload = R"(
import sys
try:
    from huggingface_hub import snapshot_download
except ImportError:
    print("no the Python package huggingface_hub is not installed for", sys.executable); sys.exit()
try:
    print("ok", snapshot_download(sys.argv[1], revision=sys.argv[2] or None, allow_patterns=[
        "*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md"],
        ignore_patterns=["original/*", "onnx/*", "consolidated*"]))
except KeyboardInterrupt:
    print("no interrupted")
except Exception as error:
    kind = type(error).__name__
    print("no", {"LocalEntryNotFoundError": "the hub can't be reached, and no copy of it is in the cache",
                 "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and no copy of it is in the cache",
                 "RepositoryNotFoundError": "there is no such model, or it is private: hf auth login",
                 "GatedRepoError": "its owner must grant you access first, then: hf auth login",
                 "RevisionNotFoundError": "it has no such revision"}.get(kind, kind + ": " + " ".join(str(error).split())[:200]))
)";

std::string find_python() {
  if (const char* named = std::getenv("UPMOE_PYTHON")) return named;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path beside = program.parent_path().parent_path() / ".venv/bin/python";
  return !error && fs::exists(beside, error) ? beside.string() : "python3";
}

// Runs Python with arguments and gives what it prints.
std::string run_python(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  require(::pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}", ErrnoText{});
  FileDescriptor in(ends[0]), out(ends[1]);
  const std::string python = find_python();
  std::vector<char*> argv = {const_cast<char*>(python.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.get(), STDOUT_FILENO);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, python.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  require(error == 0, "cannot run {}: {}; set UPMOE_PYTHON to a Python that has huggingface_hub",
          printable(python), std::strerror(error));
  out = FileDescriptor(-1);
  std::string text;
  std::array<char, 4096> some{};
  for (ssize_t got = 1; got != 0;) {
    got = ::read(in.get(), some.data(), some.size());
    if (got > 0)
      text.append(some.data(), static_cast<std::size_t>(got));
    else if (got < 0 && errno != EINTR)
      break;
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return text;
}

}  // namespace

Source find_source(const std::string& name) {
  if (fs::exists(name)) return {name, false};
  static const std::regex kHubId(R"(([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?)");
  std::smatch id;
  require(std::regex_match(name, id, kHubId), "{}: no such folder, and not a hub id (owner/name)",
          printable(name));
  std::string answer = run_python({"-c", kDownload, id[1].str(), id[2].str()});
  while (!answer.empty() && (answer.back() == '\n' || answer.back() == '\r')) answer.pop_back();
  require(answer.starts_with("ok "),
          "{}: no such folder here, and it could not be downloaded from the Hugging Face hub: {}",
          printable(name),
          answer.starts_with("no ") ? printable(answer.substr(3), 400) : "Python said nothing");
  return {answer.substr(3), true};
}

}  // namespace upmoe::cli
