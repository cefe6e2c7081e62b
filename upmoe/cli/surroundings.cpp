#include "upmoe/cli/surroundings.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "upmoe/base/text.h"
#include "upmoe/cli/commands.h"

extern char** environ;

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

// A thread of OpenMP looks so often whether the others are there before it sleeps: some 0.1 ms. By default
// it is some 10 ms, which on a machine with other work is taken from the thread that all wait for.
constexpr const char* kSpins = "3000";
constexpr const char* kUsualPath = "/usr/local/bin:/usr/bin:/bin";

bool is_absolute(std::string_view path) { return path.starts_with('/'); }

std::vector<std::string> entries(std::string_view list) {
  std::vector<std::string> out;
  for (;;) {
    const std::size_t colon = list.find(':');
    out.emplace_back(list.substr(0, colon));
    if (colon == std::string_view::npos) return out;
    list.remove_prefix(colon + 1);
  }
}

// Told once: who set PYTHONPATH to a relative folder will miss what is in it.
void note_left_out(const std::string& folder) {
  static bool told = false;
  if (folder.empty() || std::exchange(told, true)) return;
  fmt::print(
      stderr,
      "note: PYTHONPATH names '{}', which depends on the current folder, and is left out; name it from "
      "the root on\n",
      printable(folder));
}

std::string absolute_entries(std::string_view name, std::string_view list) {
  std::vector<std::string> kept;
  for (std::string& entry : entries(list))
    if (is_absolute(entry))
      kept.push_back(std::move(entry));
    else if (name == "PYTHONPATH")
      note_left_out(entry);
  return join(kept, ":");
}

bool all_absolute(std::string_view list) { return std::ranges::all_of(entries(list), is_absolute); }

}  // namespace

fs::path own_program() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  return path.is_absolute() ? path : fs::path();
}

std::string find_program(const std::string& name) {
  const char* const path = std::getenv("PATH");
  for (const std::string& folder : entries(path != nullptr ? path : kUsualPath)) {
    const std::string found = folder + "/" + name;
    if (is_absolute(found) && !folder.empty() && ::access(found.c_str(), X_OK) == 0) return found;
  }
  return "";
}

std::vector<std::string> safe_environment() {
  static constexpr std::array<std::string_view, 3> kLists = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH"};
  // Dropped unless they name absolute folders; PYTHONINSPECT never does: no Python of ours is interactive.
  static constexpr std::array<std::string_view, 5> kPlaces = {
      "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX", "PYTHONSTARTUP", "PYTHONINSPECT"};
  std::vector<std::string> out = {"PYTHONSAFEPATH=1"};  // python -P
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const std::string_view name = text.substr(0, text.find('='));
    const std::string_view value = text.substr(std::min(name.size() + 1, text.size()));
    if (name == "PYTHONSAFEPATH") continue;
    if (std::ranges::find(kLists, name) != kLists.end()) {
      const std::string kept =
          absolute_entries(name, value);  // to a shell, an empty PATH is the current folder
      if (!kept.empty() || name == "PATH")
        out.push_back(fmt::format("{}={}", name, kept.empty() ? kUsualPath : kept));
    } else if (std::ranges::find(kPlaces, name) == kPlaces.end() || all_absolute(value))
      out.emplace_back(text);
    if (name == "HOME" && !value.empty() && !is_absolute(value)) out.emplace_back("PYTHONNOUSERSITE=1");
  }
  return out;
}

void set_engine_environment() {
  if (const char* const libraries = std::getenv("LD_LIBRARY_PATH")) {
    const std::string kept = absolute_entries("LD_LIBRARY_PATH", libraries);
    kept.empty() ? ::unsetenv("LD_LIBRARY_PATH") : ::setenv("LD_LIBRARY_PATH", kept.c_str(), /*replace=*/1);
  }
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", kSpins, /*replace=*/0);
}

void fill_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest number that is free is this one. The wrong way round: reading and writing are to fail.
    if (::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY) != stream) ::_exit(kFailed);
  }
}

}  // namespace upmoe::cli
