#include "upmoe/random/key.h"

#include <array>
#include <cstddef>

#include "upmoe/base/hash.h"

namespace upmoe {

Rng Rng::at(std::string_view name) const {
  Rng child = *this;
  child.stream_ = xxh3(name, stream_);
  return child;
}

Rng Rng::at(std::uint64_t index) const {
  std::array<std::byte, 8> little_endian;
  for (int i = 0; i < 8; ++i) little_endian[i] = std::byte(index >> (8 * i));
  Rng child = *this;
  child.stream_ = xxh3(little_endian, stream_);
  return child;
}

}  // namespace upmoe
