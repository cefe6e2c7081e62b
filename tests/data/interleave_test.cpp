#include "upmoe/data/interleave.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tests/fails_with.h"

namespace upmoe {
namespace {

using test::fails_with;

RC_GTEST_PROP(Interleave, GivesEverySourceItsShareToWithinOneAtAnyTime, ()) {
  const auto drawn = *rc::gen::nonEmpty(rc::gen::container<std::vector<int>>(rc::gen::inRange(1, 200)));
  const std::vector<double> weights(drawn.begin(), drawn.end());
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const Interleave interleave(weights);
  std::vector<std::int64_t> count(weights.size(), 0);
  for (std::int64_t n = 0; n < 2 * interleave.period() + 7; ++n) {
    const auto [source, number] = interleave.at(n);
    RC_ASSERT(number == count.at(source)++);
    for (std::size_t i = 0; i < weights.size(); ++i)
      RC_ASSERT(std::abs(double(count[i]) - double(n + 1) * weights[i] / sum) < 1);
  }
}

TEST(Interleave, KeepsWholeNumbersAsTheyAre) {
  EXPECT_EQ(Interleave(std::vector<double>{2, 4, 6}).shares(), (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(Interleave(std::vector<double>{0.5}).period(), 1);
}

TEST(Interleave, RoundsOtherWeightsAndForgetsNoSource) {
  const Interleave interleave(std::vector<double>{0.7, 0.3, 1e-9});
  EXPECT_EQ(interleave.period(), 65536);
  EXPECT_NEAR(double(interleave.shares()[0]), 0.7 * 65536, 1.5);
  EXPECT_EQ(interleave.shares()[2], 1);
  const std::vector<double> equal(300, 0.1);
  const Interleave many(equal);
  for (const std::int64_t share : many.shares()) EXPECT_NEAR(double(share), 65536 / 300.0, 1);
}

TEST(Interleave, CountsOnThroughManyPeriods) {
  const Interleave interleave(std::vector<double>{2, 1});
  const auto far = interleave.at(3'000'000'000'000), near = interleave.at(0);
  EXPECT_EQ(far.source, near.source);
  EXPECT_EQ(far.number, 2'000'000'000'000 + near.number);
}

TEST(Interleave, RefusesWeightsThatAreNone) {
  const double infinite = std::numeric_limits<double>::infinity();
  for (const double weight : {0.0, -1.0, infinite, std::nan("")})
    EXPECT_TRUE(fails_with<UsageError>([&] { Interleave(std::vector<double>{1, weight}); }, {"a weight of"}));
  EXPECT_TRUE(fails_with<UsageError>([] { Interleave(std::vector<double>{}); }, {"at least one source"}));
  EXPECT_TRUE(fails_with<UsageError>([] { Interleave(std::vector<double>(5000, 1)); }, {"5000 sources"}));
  EXPECT_TRUE(fails_with<UsageError>([] { Interleave(std::vector<double>(2, 1.7e308)); }, {"add up to inf"}));
}

}  // namespace
}  // namespace upmoe
