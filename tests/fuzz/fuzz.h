#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe::fuzz {

// What must hold for every input. A failure ends the process, which is how libFuzzer learns of it.
inline void check(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

inline bool is_printable(std::string_view text) {
  return printable(text, std::numeric_limits<std::size_t>::max()) == text;
}

// An Error is a fine answer to a hostile file, if its message can be shown. Any other exception is a bug.
void only_errors(auto&& work) {
  try {
    work();
  } catch (const Error& error) {
    check(is_printable(error.what()), "a message that a terminal would obey");
  }
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace upmoe::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
