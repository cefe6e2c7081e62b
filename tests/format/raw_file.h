#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "upmoe/format/safetensors.h"

namespace upmoe::test {

// A file put together by hand: length, header, data.
inline std::string raw_file(std::string_view json, std::string_view data = "") {
  const std::uint64_t length = json.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out.append(json).append(data);
}

inline SafetensorsHeader parse(std::string_view whole_file) {
  return parse_safetensors(std::as_bytes(std::span(whole_file)), "m.safetensors");
}

}  // namespace upmoe::test
