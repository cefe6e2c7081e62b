#include "upmoe/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace upmoe::cli {
namespace {

std::string_view variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string coloured(const char* code, const std::string& text, int stream) {
  if (!is_terminal(stream) || !variable("NO_COLOR").empty()) return text;
  return std::string("\033[") + code + "m" + text + "\033[0m";
}

}  // namespace

bool is_terminal(int stream) {
  return ::isatty(stream) == 1 && !variable("TERM").empty() && variable("TERM") != "dumb";
}

std::size_t columns(int stream) {
  winsize size{};
  return ::ioctl(stream, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string green(const std::string& text, int stream) { return coloured("32", text, stream); }
std::string red(const std::string& text, int stream) { return coloured("31", text, stream); }

}  // namespace upmoe::cli
