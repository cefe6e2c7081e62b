#pragma once
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace upmoe {

// Anything the user can cause or cure: a bad file, a bad option, shapes that do not fit, a full disk.
// The message is one sentence: place, name, got, expected, and a guess where there is one.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The command line or a recipe asks for something that does not exist.
struct UsageError : Error {
  using Error::Error;
};

// The user asked us to stop (Ctrl-C). Unwinds like an error, so that destructors clean up.
struct Interrupted : Error {
  explicit Interrupted(const std::string& what = "interrupted; nothing was left behind") : Error(what) {}
};

// What errno says when the message is made. As an argument of require, std::strerror(errno) may be evaluated
// before the call whose failure it is to explain.
struct ErrnoText {};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) {
  throw Error(fmt::format(message, std::forward<Args>(args)...));
}

template <class... Args>
void require(bool ok, fmt::format_string<Args...> message, Args&&... args) {
  if (!ok) throw Error(fmt::format(message, std::forward<Args>(args)...));
}

// The same for what was asked for: a number out of its range, options that don't go together.
template <class... Args>
void require_asked(bool ok, fmt::format_string<Args...> message, Args&&... args) {
  if (!ok) throw UsageError(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace upmoe

template <>
struct fmt::formatter<upmoe::ErrnoText> : fmt::formatter<std::string_view> {
  auto format(upmoe::ErrnoText /*errno*/, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(std::strerror(errno), context);
  }
};
