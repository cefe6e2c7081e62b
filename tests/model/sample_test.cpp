#include "upmoe/model/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/fails_with.h"
#include "upmoe/random/normal.h"

namespace upmoe::model {
namespace {

constexpr std::size_t V = 24;

std::vector<float> some_logits(std::uint64_t seed = 1) {
  std::vector<float> out(V);
  normals(Rng(seed), 0, out);
  return out;
}

std::vector<double> softmax(const std::vector<float>& logits_V, double temperature = 1) {
  std::vector<double> out;
  double sum = 0;
  for (const float z : logits_V) sum += out.emplace_back(std::exp(static_cast<double>(z) / temperature));
  for (double& p : out) p /= sum;
  return out;
}

std::set<std::int64_t> tokens_of(const std::vector<Candidate>& some) {
  std::set<std::int64_t> out;
  for (const Candidate& one : some) out.insert(one.token);
  return out;
}

// The tokens in the order of their logits, largest first.
std::vector<std::int64_t> ranking(const std::vector<float>& logits_V) {
  std::vector<std::int64_t> out(V);
  for (std::size_t i = 0; i < V; ++i) out[i] = static_cast<std::int64_t>(i);
  std::ranges::stable_sort(out, [&](auto a, auto b) {
    return logits_V[static_cast<std::size_t>(a)] > logits_V[static_cast<std::size_t>(b)];
  });
  return out;
}

TEST(Sample, TemperatureOneGivesTheSoftmax) {
  const std::vector<double> wanted = softmax(some_logits());
  const auto all = candidates(some_logits(), {.temperature = 1});
  ASSERT_EQ(all.size(), V);
  for (const Candidate& one : all)
    EXPECT_NEAR(one.probability, wanted[static_cast<std::size_t>(one.token)], 1e-15) << one.token;
}

TEST(Sample, TopKKeepsTheKLargestLogits) {
  const std::vector<float> logits_V = some_logits();
  const auto ranked = ranking(logits_V);
  for (std::int64_t k = 1; k <= static_cast<std::int64_t>(V) + 2; ++k) {
    const auto some = candidates(logits_V, {.temperature = 1.3, .top_k = k});
    const auto kept = std::min<std::int64_t>(k, V);
    EXPECT_EQ(tokens_of(some), std::set<std::int64_t>(ranked.begin(), ranked.begin() + kept)) << k;
    double sum = 0;
    for (const Candidate& one : some) sum += one.probability;
    EXPECT_NEAR(sum, 1, 1e-12) << k;
  }
}

TEST(Sample, TopPKeepsTheFewestThatHaveTheProbability) {
  const std::vector<float> logits_V = some_logits();
  const auto ranked = ranking(logits_V);
  const std::vector<double> p = softmax(logits_V);
  for (const double top_p : {1e-9, 0.1, 0.5, 0.9, 0.999, 1.0}) {
    std::size_t wanted = 0;
    for (double sum = 0; wanted < V && sum < top_p; ++wanted)
      sum += p[static_cast<std::size_t>(ranked[wanted])];
    const auto some = candidates(logits_V, {.temperature = 1, .top_p = top_p});
    EXPECT_EQ(tokens_of(some),
              std::set<std::int64_t>(ranked.begin(), ranked.begin() + static_cast<std::int64_t>(wanted)))
        << top_p;
  }
}

TEST(Sample, TopPLooksAtWhatTopKHasLeft) {
  // Of 0.4, 0.3, 0.2, 0.1 the two largest are 4/7 and 3/7 when they are alone.
  const std::vector<float> logits_V = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  EXPECT_EQ(tokens_of(candidates(logits_V, {.temperature = 1, .top_k = 2, .top_p = 0.5})),
            std::set<std::int64_t>{1});
  EXPECT_EQ(tokens_of(candidates(logits_V, {.temperature = 1, .top_p = 0.5})),
            (std::set<std::int64_t>{1, 3}));
}

TEST(Sample, TopKKeepsTheLargestLogitsAtAnyTemperature) {
  for (const double temperature : {1e-300, 1.0, 1e300})
    EXPECT_EQ(tokens_of(candidates(std::vector<float>{0, 1, 3, 2}, {.temperature = temperature, .top_k = 2})),
              (std::set<std::int64_t>{2, 3}))
        << temperature;
}

TEST(Sample, EqualLogitsAreTakenByTheLowerId) {
  const std::vector<float> logits_V = {0, 2, 2, 2, 1};
  EXPECT_EQ(sample(logits_V, {}, 0), 1);
  EXPECT_EQ(tokens_of(candidates(logits_V, {.temperature = 1, .top_k = 2})), (std::set<std::int64_t>{1, 2}));
}

TEST(Sample, ASmallTemperatureIsGreedyAndALargeOneIsUniform) {
  const std::vector<float> logits_V = some_logits();
  for (std::uint64_t i = 0; i < 100; ++i)
    for (const double tiny : {1e-3, 1e-300, std::numeric_limits<double>::denorm_min()})
      EXPECT_EQ(sample(logits_V, {.temperature = tiny}, i), sample(logits_V, {}, i));
  for (const Candidate& one : candidates(logits_V, {.temperature = 1e9}))
    EXPECT_NEAR(one.probability, 1.0 / V, 1e-9);
}

TEST(Sample, DependsOnSeedAndPositionAlone) {
  const std::vector<float> logits_V = some_logits();
  std::vector<std::int64_t> first, again, other;
  for (std::uint64_t i = 0; i < 50; ++i) first.push_back(sample(logits_V, {.temperature = 1, .seed = 4}, i));
  for (std::uint64_t i = 50; i-- > 0;) again.push_back(sample(logits_V, {.temperature = 1, .seed = 4}, i));
  for (std::uint64_t i = 0; i < 50; ++i) other.push_back(sample(logits_V, {.temperature = 1, .seed = 5}, i));
  std::ranges::reverse(again);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

TEST(Sample, DrawsEveryTokenAsOftenAsItsProbabilitySays) {
  // Chi-square with V-1 = 23 degrees of freedom: above 49.7 once in a thousand (any table). The draws are
  // fixed.
  constexpr std::uint64_t kDraws = 20000;
  for (const double temperature : {1.0, 0.7}) {
    const std::vector<double> p = softmax(some_logits(), temperature);
    std::vector<double> count(V);
    for (std::uint64_t i = 0; i < kDraws; ++i)
      ++count[static_cast<std::size_t>(sample(some_logits(), {.temperature = temperature, .seed = 9}, i))];
    double chi_square = 0;
    for (std::size_t v = 0; v < V; ++v) {
      const double wanted = p[v] * static_cast<double>(kDraws);
      chi_square += (count[v] - wanted) * (count[v] - wanted) / wanted;
    }
    EXPECT_LT(chi_square, 49.7) << temperature;
    EXPECT_GT(chi_square, 5) << "suspiciously even: " << temperature;
  }
}

TEST(Sample, RefusesLogitsThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits_V = some_logits();
    logits_V[5] = bad;
    EXPECT_TRUE(test::fails_with([&] { sample(logits_V, {}, 0); }, {"not finite"}));
  }
}

TEST(Sample, RefusesWhatIsOutOfItsRange) {
  EXPECT_TRUE(test::fails_with<UsageError>([] { check({.temperature = -1}); }, {"temperature", "-1"}));
  EXPECT_TRUE(test::fails_with<UsageError>([] { check({.top_k = -1}); }, {"top-k", "-1"}));
  for (const double bad : {0.0, -0.5, 1.5})
    EXPECT_TRUE(test::fails_with<UsageError>([&] { check({.top_p = bad}); }, {"top-p"}));
}

}  // namespace
}  // namespace upmoe::model
