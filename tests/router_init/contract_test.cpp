// What every start of a router promises. A new one is enrolled by its registry line.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tests/fails_with.h"
#include "tests/option_faults.h"
#include "upmoe/base/isa.h"
#include "upmoe/router_init/registry.h"

namespace upmoe {

inline void PrintTo(const RouterInitInfo& init, std::ostream* out) { *out << init.name; }

namespace {

constexpr std::int64_t E = 8, H = 512;
const RouterPlace kPlace{.E = E, .H = H, .gamma_length = 20.0};

double mean(const std::vector<float>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}
double deviation(const std::vector<float>& x) {
  const double m = mean(x);
  double squares = 0;
  for (const float v : x) squares += (v - m) * (v - m);
  return std::sqrt(squares / static_cast<double>(x.size() - 1));
}
std::vector<float> weights(const std::string& name, const Values& options = {}) {
  return find_plugin(router_init::router_inits(), name, "router init")
      .make(options)
      ->weight_EH(kPlace, Rng(5));
}
// Standard error of a deviation estimated from E * H normal or uniform draws, times five.
const double kTolerance = 5 / std::sqrt(2.0 * E * H);

TEST(Registry, HasNoOptionThatTheProgramHasAndNoneWithTwoMeanings) {
  EXPECT_EQ(test::option_faults(router_init::router_inits(), "router-"), std::vector<std::string>{});
}

class EveryRouterInit : public testing::TestWithParam<RouterInitInfo> {};

TEST_P(EveryRouterInit, GivesFiniteWeightsOfTheRightNumberAndTheSameBitsTwice) {
  const auto init = GetParam().make({});
  const std::vector<float> first_EH = init->weight_EH(kPlace, Rng(5));
  ASSERT_EQ(first_EH.size(), static_cast<std::size_t>(E * H));
  for (const float weight : first_EH) ASSERT_TRUE(std::isfinite(weight));
  EXPECT_EQ(first_EH, GetParam().make({})->weight_EH(kPlace, Rng(5)));
}

TEST_P(EveryRouterInit, GivesTheSameBitsAtEveryInstructionSet) {
  const auto init = GetParam().make({});
  const Isa active = active_isa();
  const std::vector<float> expected_EH = init->weight_EH(kPlace, Rng(5));
  for (const Isa isa : available_isas()) {
    set_active_isa(isa);
    EXPECT_EQ(init->weight_EH(kPlace, Rng(5)), expected_EH) << isa_name(isa);
  }
  set_active_isa(active);
}

TEST_P(EveryRouterInit, DependsOnItsKeyUnlessItIsDegenerate) {
  const auto init = GetParam().make({});
  EXPECT_EQ(init->weight_EH(kPlace, Rng(5)) == init->weight_EH(kPlace, Rng(6)), !init->danger().empty());
}

TEST_P(EveryRouterInit, RefusesAnUnknownOption) {
  EXPECT_THROW(GetParam().make({{"no-such-option", "1"}}), UsageError);
}

TEST_P(EveryRouterInit, SaysWhatItIs) {
  EXPECT_FALSE(GetParam().summary.empty() || GetParam().formula.empty() || GetParam().source.empty());
}

INSTANTIATE_TEST_SUITE_P(All, EveryRouterInit, testing::ValuesIn(router_init::router_inits()),
                         [](const auto& i) { return i.param.name; });

TEST(RouterInit, AutoIsTheDefaultAndReachesTheLogitDeviationAskedFor) {
  EXPECT_EQ(router_init::router_inits().front().name, "auto");
  EXPECT_NEAR(deviation(weights("auto")) * kPlace.gamma_length / 0.5, 1, kTolerance);
  EXPECT_NEAR(deviation(weights("auto", {{"logit-std", "2"}})) * kPlace.gamma_length / 2, 1, kTolerance);
}

TEST(RouterInit, AutoRefusesANormOfZeros) {
  const auto init = find_plugin(router_init::router_inits(), "auto", "router init").make({});
  EXPECT_THROW(init->weight_EH({.E = E, .H = H, .gamma_length = 0}, Rng(5)), Error);
}

TEST(RouterInit, AutoRefusesANormFromWhichNoScaleFollows) {
  const auto init = find_plugin(router_init::router_inits(), "auto", "router init").make({});
  for (const double length :
       {1e-42, 1e-39, 1e38, 1e300, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_TRUE(test::fails_with([&] { init->weight_EH({.E = E, .H = H, .gamma_length = length}, Rng(5)); },
                                 {"'auto'", fmt::format("length {:g}", length), "another --router-init"}));
  for (const double length : {1e-37, 1e37})
    for (const float weight : init->weight_EH({.E = E, .H = H, .gamma_length = length}, Rng(5)))
      ASSERT_TRUE(std::isfinite(weight) && weight != 0);
}

TEST(RouterInit, ThePublishedOnesHaveTheirPublishedMeanAndDeviation) {
  const double kRand = 1 / std::sqrt(12.0);
  EXPECT_NEAR(mean(weights("torch_rand")), 0.5, 5 * kRand / std::sqrt(E * H));
  EXPECT_NEAR(deviation(weights("torch_rand")) / kRand, 1, kTolerance);
  EXPECT_NEAR(mean(weights("torch_rand_mean0")), 0, 1e-7);
  EXPECT_NEAR(deviation(weights("torch_rand_mean0")) / kRand, 1, kTolerance);
  EXPECT_NEAR(mean(weights("torch_rand_002")), 0, 1e-8);
  EXPECT_NEAR(deviation(weights("torch_rand_002")) / 0.02, 1, kTolerance);
  EXPECT_NEAR(deviation(weights("torch_normal_002")) / 0.02, 1, kTolerance);
  EXPECT_NEAR(deviation(weights("torch_normal_028")) / kRand, 1, kTolerance);
  for (const float weight : weights("torch_rand")) ASSERT_TRUE(0 <= weight && weight < 1);
}

TEST(RouterInit, UniformStaysWithinOneOverTheRootOfTheWidth) {
  const double bound = 1 / std::sqrt(static_cast<double>(H));
  for (const float weight : weights("uniform")) ASSERT_LE(std::abs(weight), bound);
  EXPECT_NEAR(deviation(weights("uniform")) * std::sqrt(3.0) / bound, 1, kTolerance);
}

TEST(RouterInit, OrthogonalRowsHaveLengthOneAndRightAngles) {
  const std::vector<float> weight_EH = weights("orthogonal");
  for (std::size_t a = 0; a < E; ++a)
    for (std::size_t b = 0; b <= a; ++b) {
      double dot = 0;
      for (std::size_t i = 0; i < H; ++i)
        dot += static_cast<double>(weight_EH[a * H + i]) * weight_EH[b * H + i];
      EXPECT_NEAR(dot, a == b, 1e-6) << a << " " << b;  // fp32 storage of unit rows
    }
}

TEST(RouterInit, OrthogonalRefusesMoreExpertsThanDimensions) {
  const auto init = find_plugin(router_init::router_inits(), "orthogonal", "router init").make({});
  EXPECT_THROW(init->weight_EH({.E = 9, .H = 8, .gamma_length = 1}, Rng(5)), Error);
}

TEST(RouterInit, ZeroHasToBeForcedAndTheDefaultHasNot) {
  const auto danger = [](const char* name) {
    return find_plugin(router_init::router_inits(), name, "router init").make({})->danger();
  };
  EXPECT_NE(danger("zero"), "");
  EXPECT_EQ(danger("auto"), "");
}

}  // namespace
}  // namespace upmoe
