#include "upmoe/tensor/convert.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "tests/random/every_isa.h"
#include "upmoe/base/error.h"

namespace upmoe {
namespace {

using Stored = std::vector<std::uint16_t>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> widen(Dtype dtype, const Stored& stored) {
  std::vector<float> out(stored.size());
  to_float(dtype, std::as_bytes(std::span(stored)), out);
  return out;
}

Stored narrow(Dtype dtype, const std::vector<float>& x) {
  Stored out(x.size());
  from_float(x, dtype, std::as_writable_bytes(std::span(out)));
  return out;
}

Stored all_values() {
  Stored all(1 << 16);
  std::iota(all.begin(), all.end(), std::uint16_t(0));
  return all;
}

struct Format {
  Dtype dtype;
  int mantissa_bits, bias;
  std::uint16_t infinity;  // its bits; more is NaN
};

class EveryHalf : public testing::TestWithParam<Format> {
 protected:
  // From the definition of the format, without bit tricks. What would be infinity if it were finite comes out
  // as that number: the end of the interval that rounds to the largest.
  double value(std::uint16_t stored) const {
    const Format& format = GetParam();
    const int field = (stored & 0x7FFF) >> format.mantissa_bits;
    const int mantissa = stored & ((1 << format.mantissa_bits) - 1);
    const int implied = field == 0 ? 0 : 1 << format.mantissa_bits;
    const double magnitude =
        std::ldexp(mantissa + implied, std::max(field, 1) - format.bias - format.mantissa_bits);
    return stored & 0x8000 ? -magnitude : magnitude;
  }
  bool is_nan(std::uint16_t stored) const { return (stored & 0x7FFF) > GetParam().infinity; }
};

INSTANTIATE_TEST_SUITE_P(Convert, EveryHalf,
                         testing::Values(Format{Dtype::bf16, 7, 127, 0x7F80},
                                         Format{Dtype::f16, 10, 15, 0x7C00}),
                         [](const auto& format) { return std::string(name(format.param.dtype)); });

TEST_P(EveryHalf, WidensToItsValue) {
  at_every_isa([&] {
    const auto x = widen(GetParam().dtype, all_values());
    for (std::uint32_t b = 0; b < 0x10000; ++b) {
      const auto stored = std::uint16_t(b);
      if (is_nan(stored)) {
        ASSERT_TRUE(std::isnan(x[b])) << b;
      } else if ((stored & 0x7FFF) == GetParam().infinity) {
        ASSERT_EQ(x[b], stored & 0x8000 ? -kInfinity : kInfinity);
      } else {
        ASSERT_EQ(double(x[b]), value(stored)) << b;
      }
      ASSERT_EQ(std::signbit(x[b]), b >= 0x8000) << b;
    }
  });
}

TEST_P(EveryHalf, ComesBackFromFloat) {
  const std::uint16_t quiet = std::uint16_t(1 << (GetParam().mantissa_bits - 1));
  at_every_isa([&] {
    const Stored back = narrow(GetParam().dtype, widen(GetParam().dtype, all_values()));
    for (std::uint32_t b = 0; b < 0x10000; ++b) ASSERT_EQ(back[b], is_nan(std::uint16_t(b)) ? b | quiet : b);
  });
}

// At, below and above the middle between each value and the next, the last of them infinity.
TEST_P(EveryHalf, RoundsToTheNearestAndTiesToEven) {
  std::vector<float> x;
  Stored want;
  for (const std::uint16_t sign : {0, 0x8000}) {
    for (std::uint16_t b = 0; b < GetParam().infinity; ++b) {
      const auto low = std::uint16_t(b | sign), high = std::uint16_t(low + 1);
      const float middle = float((value(low) + value(high)) / 2);
      ASSERT_EQ(double(middle), (value(low) + value(high)) / 2);
      x.insert(x.end(), {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 2 * middle)});
      want.insert(want.end(), {low % 2 == 0 ? low : high, low, high});
    }
  }
  at_every_isa([&] { ASSERT_EQ(narrow(GetParam().dtype, x), want); });
}

TEST_P(EveryHalf, OverflowsToInfinity) {
  const std::uint16_t infinity = GetParam().infinity, minus = infinity | 0x8000;
  const float most = std::numeric_limits<float>::max();
  at_every_isa([&] {
    EXPECT_EQ(narrow(GetParam().dtype, {most, -most, kInfinity, -kInfinity}),
              (Stored{infinity, minus, infinity, minus}));
  });
}

TEST_P(EveryHalf, KeepsNanQuietWithItsSignAndUpperBits) {
  const auto nan = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  const std::uint16_t quiet = GetParam().infinity | std::uint16_t(1 << (GetParam().mantissa_bits - 1));
  at_every_isa([&] {
    EXPECT_EQ(narrow(GetParam().dtype, {nan(0x7F800001), nan(0xFF800001), nan(0x7FC00000), nan(0xFFFFFFFF)}),
              (Stored{quiet, std::uint16_t(quiet | 0x8000), quiet, 0xFFFF}));
  });
}

// Any sizes, bytes at odd addresses; nothing outside is written.
RC_GTEST_PROP(Convert, GivesTheSameAtEveryLevelOfInstructions, (const std::vector<std::uint32_t>& bits)) {
  std::vector<float> x(bits.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::bit_cast<float>(bits[i] * 2654435761u);
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32}) {
    const std::size_t size = x.size() * upmoe::bits(dtype) / 8;
    std::vector<std::byte> first;
    std::vector<std::uint32_t> first_back;
    at_every_isa([&] {
      std::vector<std::byte> out(size + 2, std::byte(0xA5));
      const auto inner = std::span(out).subspan(1, size);
      from_float(x, dtype, inner);
      std::vector<float> back(x.size() + 1, 77);
      to_float(dtype, inner, std::span(back).first(x.size()));
      std::vector<std::uint32_t> back_bits;
      for (const float v : back) back_bits.push_back(std::bit_cast<std::uint32_t>(v));
      if (first.empty()) first = out, first_back = back_bits;
      RC_ASSERT(out == first && back_bits == first_back);
      RC_ASSERT(out.front() == std::byte(0xA5) && out.back() == std::byte(0xA5) && back.back() == 77);
    });
  }
}

TEST(Convert, RefusesOtherTypesAndSizesThatDoNotMatch) {
  std::vector<float> x(4);
  std::vector<std::byte> bytes(8);
  EXPECT_THROW(to_float(Dtype::i16, bytes, x), Error);
  EXPECT_THROW(from_float(x, Dtype::f8_e4m3, bytes), Error);
  EXPECT_THROW(to_float(Dtype::f32, bytes, x), Error);
  EXPECT_THROW(from_float(x, Dtype::bf16, std::span(bytes).first(7)), Error);
  EXPECT_NO_THROW(from_float({}, Dtype::f32, {}));
}

}  // namespace
}  // namespace upmoe
