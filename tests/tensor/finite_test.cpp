#include "upmoe/tensor/finite.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <limits>
#include <vector>

#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::array kFloats = {Dtype::f32, Dtype::bf16, Dtype::f16};

std::vector<std::byte> stored(Dtype dtype, const std::vector<float>& x) {
  std::vector<std::byte> out(x.size() * static_cast<std::size_t>(bits(dtype)) / 8);
  from_float(x, dtype, out);
  return out;
}

RC_GTEST_PROP(Finite, FindsTheFirstOfAnyKindAtAnyPlace, ()) {
  const Dtype dtype = *rc::gen::elementOf(kFloats);
  const auto count = *rc::gen::inRange<std::size_t>(1, 5000),
             first = *rc::gen::inRange<std::size_t>(0, count);
  std::vector<float> x(count, 1.5f);
  x[first] = *rc::gen::element(kInf, -kInf, kNan, -kNan);
  x[*rc::gen::inRange<std::size_t>(first, count)] = -kInf;
  RC_ASSERT(find_not_finite(dtype, stored(dtype, x)) == first);
}

TEST(Finite, TakesTheLargestTheSmallestAndZeroForFinite) {
  for (const Dtype dtype : kFloats) {
    const float most = dtype == Dtype::f16 ? 65504.0f : dtype == Dtype::bf16 ? 3.3895314e38f : 3.4028235e38f;
    EXPECT_EQ(find_not_finite(dtype, stored(dtype, {0.0f, -0.0f, most, -most, 1e-42f})), std::nullopt);
  }
}

TEST(Finite, FindsEveryPatternOfSixteenBitsWhoseExponentIsFull) {
  for (const auto& [dtype, full] : {std::pair{Dtype::bf16, 0x7F80}, std::pair{Dtype::f16, 0x7C00}})
    for (int pattern = 0; pattern < 65536; ++pattern) {
      const auto bits = static_cast<std::uint16_t>(pattern);
      EXPECT_EQ(find_not_finite(dtype, std::as_bytes(std::span(&bits, 1))).has_value(),
                (pattern & full) == full)
          << name(dtype) << " " << pattern;
    }
}

TEST(Finite, NamesTheKindAndThePlaceInTheWholeTensor) {
  const std::array<std::int64_t, 2> matrix = {9, 4};
  const std::array<std::int64_t, 1> vector = {36};
  EXPECT_EQ(not_finite_text(Dtype::f32, matrix, 8, stored(Dtype::f32, {0, 0, kNan})),
            "NaN at row 2, column 2");
  EXPECT_EQ(not_finite_text(Dtype::bf16, matrix, 0, stored(Dtype::bf16, {0, -kInf})),
            "-Inf at row 0, column 1");
  EXPECT_EQ(not_finite_text(Dtype::f16, vector, 30, stored(Dtype::f16, {kInf})), "Inf at 30");
  EXPECT_EQ(not_finite_text(Dtype::f32, matrix, 0, stored(Dtype::f32, {1, 2})), "");
}

}  // namespace
}  // namespace upmoe
