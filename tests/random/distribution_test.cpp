// Are the deviates normal, and the keys independent? Fixed seeds: each figure is the same in every run, so
// the bounds need no allowance for bad luck. They are at 4 standard errors or the like.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#include "upmoe/random/normal.h"
#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

constexpr std::size_t kSamples = 1 << 24;
constexpr double kCount = kSamples;

const std::vector<float>& sample() {
  static const std::vector<float> z = [] {
    std::vector<float> out(kSamples);
    normals(Rng(2024).at("distribution"), 0, out);
    return out;
  }();
  return z;
}

double upper_tail(double x) { return 0.5 * std::erfc(x / std::sqrt(2.0)); }  // P(Z > x)

struct Bin {
  double observed, expected;
};

// Every BF16 value in ascending order, 0 and -0 as one, with the probability of what rounds to it.
std::vector<Bin> bf16_bins() {
  std::vector<std::uint16_t> stored(kSamples);
  from_float(sample(), Dtype::bf16, std::as_writable_bytes(std::span(stored)));
  std::vector<double> count(1 << 16);
  for (const std::uint16_t b : stored) ++count[b];
  const auto value = [](int step) {  // step 0 is zero, step -1 the value just below it
    const float magnitude = std::bit_cast<float>(std::uint32_t(std::abs(step)) << 16);
    return double(step < 0 ? -magnitude : magnitude);
  };
  const int last = 0x4100;  // 8.0
  std::vector<Bin> bins;
  for (int step = -last; step <= last; ++step) {
    const double low = (value(step - 1) + value(step)) / 2, high = (value(step) + value(step + 1)) / 2;
    const double p = low > 0 ? upper_tail(low) - upper_tail(high) : upper_tail(-high) - upper_tail(-low);
    const double observed = step == 0  ? count[0] + count[0x8000]
                            : step > 0 ? count[step]
                                       : count[0x8000 - step];
    bins.push_back({observed, p * kCount});
  }
  return bins;
}

double moment(int power) {
  double sum = 0;
  for (const float z : sample()) sum += std::pow(double(z), power);
  return sum / kCount;
}

TEST(Distribution, HasTheMomentsOfANormal) {
  // The variances of Z, Z^2, Z^3, Z^4 are 1, 2, 15, 96.
  EXPECT_LT(std::abs(moment(1)) * std::sqrt(kCount), 4);
  EXPECT_LT(std::abs(moment(2) - 1) * std::sqrt(kCount / 2), 4);
  EXPECT_LT(std::abs(moment(3)) * std::sqrt(kCount / 15), 4);
  EXPECT_LT(std::abs(moment(4) - 3) * std::sqrt(kCount / 96), 4);
}

TEST(Distribution, HasAsManyInItsTailsAsANormal) {
  for (const float limit : {3.0f, 4.0f, 4.5f, 5.0f}) {
    const double observed =
        double(std::ranges::count_if(sample(), [&](float z) { return std::abs(z) > limit; }));
    const double expected = 2 * upper_tail(limit) * kCount;  // 9.6 beyond 5 sigma
    EXPECT_LT(std::abs(observed - expected), 4 * std::sqrt(expected)) << limit;
  }
}

TEST(Distribution, IsOnBothSidesAlike) {
  const double positive = double(std::ranges::count_if(sample(), [](float z) { return z > 0; }));
  EXPECT_LT(std::abs(positive - kCount / 2), 4 * std::sqrt(kCount) / 2);
}

TEST(Distribution, PassesKolmogorovAndSmirnov) {
  double observed = 0, expected = 0, distance = 0;
  for (const Bin& bin : bf16_bins()) {
    observed += bin.observed;
    expected += bin.expected;
    distance = std::max(distance, std::abs(observed - expected) / kCount);
  }
  EXPECT_LT(distance * std::sqrt(kCount), 1.63);  // the 1 % point
}

TEST(Distribution, PassesChiSquaredOverEveryBf16Value) {
  double chi_squared = 0, bins = 0;
  Bin sum = {};
  for (const Bin& bin : bf16_bins()) {
    sum = {sum.observed + bin.observed, sum.expected + bin.expected};
    if (sum.expected < 25) continue;
    chi_squared += (sum.observed - sum.expected) * (sum.observed - sum.expected) / sum.expected;
    ++bins;
    sum = {};
  }
  EXPECT_GT(bins, 2000);
  EXPECT_LT(std::abs(chi_squared - (bins - 1)) / std::sqrt(2 * (bins - 1)), 4);
}

// In standard errors.
double correlation(const Rng& a, const Rng& b, std::uint64_t lag) {
  constexpr std::size_t kPairs = 1 << 20;
  std::vector<float> x(kPairs), y(kPairs);
  normals(a, 0, x);
  normals(b, lag, y);
  double sum = 0;
  for (std::size_t i = 0; i < kPairs; ++i) sum += double(x[i]) * y[i];
  return sum / std::sqrt(double(kPairs));
}

TEST(Distribution, IsIndependentBetweenSiblings) {
  const Rng layer = Rng(2024).at("layer");
  for (std::uint64_t i = 0; i < 8; ++i) {
    EXPECT_LT(std::abs(correlation(layer.at(i), layer.at(i + 1), 0)), 4) << i;
    EXPECT_LT(std::abs(correlation(layer, layer.at(i), 0)), 4) << i;
    EXPECT_LT(std::abs(correlation(Rng(i).at("x"), Rng(i + 1).at("x"), 0)), 4) << i;
  }
}

TEST(Distribution, IsIndependentAlongAKey) {
  const Rng key = Rng(2024).at("along");
  for (const std::uint64_t lag : {1, 2, 15, 16, 17, 48, 63, 64, 128, 4096})
    EXPECT_LT(std::abs(correlation(key, key, lag)), 4) << lag;
}

}  // namespace
}  // namespace upmoe
