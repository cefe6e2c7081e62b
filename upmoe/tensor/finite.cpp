#include "upmoe/tensor/finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

constexpr std::size_t kBlock = 2048;  // elements: what is looked at again is in the cache

// A float is not finite when all bits of its exponent are set.
template <class Bits, Bits kExponent>
std::optional<std::size_t> find(std::span<const std::byte> in) {
  const std::size_t count = in.size() / sizeof(Bits);
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = std::min(count, begin + kBlock);
    const auto is_bad = [&](std::size_t i) {
      Bits bits;
      std::memcpy(&bits, in.data() + i * sizeof bits, sizeof bits);
      return (bits & kExponent) == kExponent;
    };
    Bits any = 0;
    for (std::size_t i = begin; i < end; ++i) any |= static_cast<Bits>(is_bad(i));
    if (any == 0) continue;
    while (!is_bad(begin)) ++begin;
    return begin;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::size_t> find_not_finite(Dtype dtype, std::span<const std::byte> in) {
  switch (dtype) {
    case Dtype::f32:
      return find<std::uint32_t, 0x7F800000>(in);
    case Dtype::bf16:
      return find<std::uint16_t, 0x7F80>(in);
    case Dtype::f16:
      return find<std::uint16_t, 0x7C00>(in);
    default:
      return std::nullopt;
  }
}

std::string not_finite_text(Dtype dtype, std::span<const std::int64_t> shape, std::uint64_t first,
                            std::span<const std::byte> in) {
  const std::optional<std::size_t> found = find_not_finite(dtype, in);
  if (!found) return {};
  const auto size = static_cast<std::size_t>(bits(dtype)) / 8;
  std::array<float, 1> value{};
  to_float(dtype, in.subspan(*found * size, size), value);
  const char* const what = std::isnan(value[0]) ? "NaN" : value[0] > 0 ? "Inf" : "-Inf";
  const std::uint64_t at = first + *found;
  if (shape.size() < 2) return fmt::format("{} at {}", what, at);
  const auto cols = static_cast<std::uint64_t>(shape.back());
  return fmt::format("{} at row {}, column {}", what, at / cols, at % cols);
}

}  // namespace upmoe
