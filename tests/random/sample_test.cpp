#include "upmoe/random/sample.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"

namespace upmoe {
namespace {

using Numbers = std::vector<std::int32_t>;

const Rng kKey = Rng(42).at("layer").at(7).at("value");  // the key of tests/random/known_answers.py

Numbers iota(std::int64_t n) {
  Numbers all(n);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

TEST(Uniforms, AreTheKnownOnes) {
  std::vector<float> u(4);
  uniforms(kKey, 0, u);
  EXPECT_EQ(u, (std::vector<float>{4494284 * 0x1p-24f, 13493846 * 0x1p-24f, 5783117 * 0x1p-24f,
                                   13785082 * 0x1p-24f}));
}

TEST(Uniforms, FillZeroToOneEvenly) {
  std::vector<float> u(1 << 20);
  uniforms(Rng(1).at("uniform"), 5, u);
  EXPECT_GE(std::ranges::min(u), 0);
  EXPECT_LT(std::ranges::max(u), 1);
  std::vector<double> count(256);
  for (const float x : u) ++count[std::size_t(x * 256)];
  double chi_squared = 0;  // 255 degrees of freedom
  for (const double c : count) chi_squared += (c - 4096) * (c - 4096) / 4096;
  EXPECT_LT(std::abs(chi_squared - 255) / std::sqrt(2 * 255.0), 4);
}

TEST(Below, GivesTheKnownDraws) {
  const std::uint64_t known[] = {804, 821, 104, 177, 92, 134, 780, 724};
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(below(kKey, i, 1000), known[i]);
  EXPECT_EQ(below(kKey, 5, ~0ull), 0x226937ec2bf2159eu);
}

RC_GTEST_PROP(Below, StaysBelow, (std::uint64_t seed, std::uint64_t n)) {
  RC_PRE(n > 0);
  RC_ASSERT(below(Rng(seed), seed % 1000, n) < n);
}

TEST(Permuted, AreTheKnownPlaces) {
  Numbers places;
  for (std::uint64_t i = 0; i < 10; ++i) places.push_back(std::int32_t(permuted(kKey, i, 10)));
  EXPECT_EQ(places, (Numbers{1, 8, 4, 3, 2, 5, 7, 0, 9, 6}));
  EXPECT_EQ(permuted(kKey, 5, 1'000'000'007), 374859359u);
  EXPECT_EQ(permuted(kKey, 5, ~0ull), 3908822551853010972u);
}

RC_GTEST_PROP(Permuted, TakesEveryPlaceOnce, (std::uint64_t seed)) {
  const auto n = *rc::gen::inRange<std::uint64_t>(1, 3000);
  std::vector<char> taken(n, 0);
  for (std::uint64_t i = 0; i < n; ++i) ++taken.at(permuted(Rng(seed), i, n));
  RC_ASSERT(std::ranges::count(taken, 1) == std::int64_t(n));
}

TEST(Permuted, SendsEveryNumberToEveryPlaceEquallyOften) {
  constexpr int kN = 10, kSeeds = 20000;
  std::map<std::pair<std::uint64_t, std::uint64_t>, int> count;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed)
    for (std::uint64_t i = 0; i < kN; ++i) ++count[{i, permuted(Rng(seed), i, kN)}];
  double chi_squared = 0;  // 81 degrees of freedom: rows and columns add up
  for (const auto& [pair, times] : count)
    chi_squared += (times - kSeeds / kN) * (times - kSeeds / kN) / double(kSeeds / kN);
  EXPECT_EQ(count.size(), 100u);
  EXPECT_LT(std::abs(chi_squared - 81) / std::sqrt(2 * 81.0), 4);
}

TEST(Permutation, IsTheKnownOne) {
  EXPECT_EQ(permutation(kKey, 10), (Numbers{8, 0, 2, 4, 3, 5, 9, 6, 1, 7}));
}

RC_GTEST_PROP(Permutation, HasEveryNumberOnce, (std::uint64_t seed)) {
  const std::int64_t n = std::int64_t(seed % 500);
  Numbers shuffled = permutation(Rng(seed), n);
  std::ranges::sort(shuffled);
  RC_ASSERT(shuffled == iota(n));
}

TEST(Permutation, GivesEveryOrderAlikeOften) {
  std::map<Numbers, double> count;
  for (std::uint64_t i = 0; i < 24000; ++i) ++count[permutation(Rng(7).at(i), 4)];
  ASSERT_EQ(count.size(), 24u);
  double chi_squared = 0;  // 23 degrees of freedom
  for (const auto& [order, c] : count) chi_squared += (c - 1000) * (c - 1000) / 1000;
  EXPECT_LT(std::abs(chi_squared - 23) / std::sqrt(2 * 23.0), 4);
}

TEST(Choose, GivesTheKnownSets) {
  EXPECT_EQ(choose(kKey, 6, 100), (Numbers{2, 12, 17, 20, 80, 82}));
  const Numbers half = choose(kKey, 14336, 28672);
  EXPECT_EQ(hex(xxh3(std::as_bytes(std::span(half)))), "0fbd6f2b1257c1ad");
}

RC_GTEST_PROP(Choose, GivesTheFirstOfThePermutationInOrder, (std::uint64_t seed)) {
  const std::int64_t n = std::int64_t(seed % 500), k = n == 0 ? 0 : std::int64_t(seed / 500 % (n + 1));
  Numbers first = permutation(Rng(seed), n);
  first.resize(k);
  std::ranges::sort(first);
  RC_ASSERT(choose(Rng(seed), k, n) == first);
}

TEST(Choose, GivesAllWhenAllAreAskedFor) {
  EXPECT_EQ(choose(kKey, 1000, 1000), iota(1000));
  EXPECT_EQ(choose(kKey, 0, 1000), Numbers());
  EXPECT_EQ(choose(kKey, 0, 0), Numbers());
}

TEST(Choose, GivesEverySetAlikeOften) {
  std::map<Numbers, double> count;
  for (std::uint64_t i = 0; i < 20000; ++i) ++count[choose(Rng(8).at(i), 3, 6)];
  ASSERT_EQ(count.size(), 20u);
  double chi_squared = 0;  // 19 degrees of freedom
  for (const auto& [set, c] : count) chi_squared += (c - 1000) * (c - 1000) / 1000;
  EXPECT_LT(std::abs(chi_squared - 19) / std::sqrt(2 * 19.0), 4);
}

TEST(Choose, TakesEveryNumberAlikeOften) {
  std::vector<double> count(1000);
  for (std::uint64_t i = 0; i < 2000; ++i)
    for (const std::int32_t number : choose(Rng(9).at(i), 250, 1000)) ++count[number];
  // A number is taken 500 times, with variance 2000 * 1/4 * 3/4; the counts sum to a constant.
  double chi_squared = 0;
  for (const double c : count) chi_squared += (c - 500) * (c - 500) / 375;
  EXPECT_LT(std::abs(chi_squared - 999) / std::sqrt(2 * 999.0), 4);
}

TEST(Choose, RefusesWhatCannotBeChosen) {
  EXPECT_THROW(choose(kKey, 5, 4), Error);
  EXPECT_THROW(choose(kKey, -1, 4), Error);
  EXPECT_THROW(choose(kKey, 1, 1ll << 31), Error);
  EXPECT_THROW(permutation(kKey, -1), Error);
}

}  // namespace
}  // namespace upmoe
