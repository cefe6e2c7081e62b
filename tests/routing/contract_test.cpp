// What every router promises, with each combination of its options. A new one is enrolled by its registry
// line. Shape letters: T tokens, E experts, K experts of one token, N routed pairs.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/fails_with.h"
#include "upmoe/base/plugin.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/random/normal.h"
#include "upmoe/random/sample.h"
#include "upmoe/routing/registry.h"
#include "upmoe/target/registry.h"

namespace upmoe::routing {
namespace {

constexpr std::int64_t T = 48, E = 8, K = 2;

struct Case {
  const RouterInfo* info;
  Values values;

  std::string name() const {
    std::string out = info->name;
    for (const auto& [option, value] : values) out += "_" + option + "_" + value;
    std::ranges::replace_if(
        out, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    return out;
  }
  std::unique_ptr<Router> make(std::int64_t experts = E, std::int64_t per_token = K) const {
    return info->make({.experts = experts, .per_token = per_token}, values);
  }
  RouterTraits traits() const { return info->traits(values); }
};
void PrintTo(const Case& one, std::ostream* out) { *out << one.name(); }

// Flags on and off, every choice; numbers and texts stay what they are.
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const RouterInfo& info : routers()) {
    std::vector<Values> all = {{}};
    for (const OptionInfo& option : info.options) {
      const std::vector<std::string> choices =
          option.type == "flag" ? std::vector<std::string>{"true", "false"} : option.choices;
      std::vector<Values> more;
      for (const Values& values : all)
        for (const std::string& choice : choices) {
          more.push_back(values);
          more.back()[option.name] = choice;
        }
      if (!choices.empty()) all = std::move(more);
    }
    for (Values& values : all) out.push_back({&info, std::move(values)});
  }
  return out;
}

// Standard normal: no two are equal, and a step of 1e-4 changes no order.
at::Tensor random_logits(std::int64_t tokens = T, std::int64_t experts = E, std::uint64_t seed = 1) {
  at::Tensor out = at::empty({tokens, experts});
  normals(Rng(seed), 0, {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out;
}

// 0, 1 or 2: full of ties.
at::Tensor tied_logits() {
  const at::Tensor out = at::empty({T, E});
  for (std::int64_t i = 0; i < T * E; ++i)
    out.view(-1)[i] = static_cast<double>(below(Rng(2), static_cast<std::uint64_t>(i), 3));
  return out;
}

// weight of each token and expert, 0 where they do not meet
at::Tensor dense_weights(const Routing& routing) {
  return at::zeros_like(routing.score_TE)
      .index_put({routing.token_N, routing.expert_N}, routing.weight_N, /*accumulate=*/true);
}

std::vector<std::int64_t> ids(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<std::int64_t>(), tensor.const_data_ptr<std::int64_t>() + tensor.numel()};
}

void expect_well_formed(const Routing& routing, std::int64_t tokens, std::int64_t experts,
                        std::int64_t per_token, bool ragged) {
  const std::int64_t N = routing.token_N.numel();
  ASSERT_EQ(routing.token_N.sizes(), at::IntArrayRef({N}));
  ASSERT_EQ(routing.expert_N.sizes(), at::IntArrayRef({N}));
  ASSERT_EQ(routing.weight_N.sizes(), at::IntArrayRef({N}));
  ASSERT_EQ(routing.score_TE.sizes(), at::IntArrayRef({tokens, experts}));
  EXPECT_EQ(routing.token_N.scalar_type(), at::kLong);
  EXPECT_EQ(routing.expert_N.scalar_type(), at::kLong);
  EXPECT_EQ(routing.weight_N.scalar_type(), at::kFloat);
  EXPECT_EQ(routing.score_TE.scalar_type(), at::kFloat);
  EXPECT_TRUE(routing.weight_N.isfinite().all().item<bool>());
  EXPECT_TRUE(routing.score_TE.isfinite().all().item<bool>());
  const std::vector<std::int64_t> token = ids(routing.token_N), expert = ids(routing.expert_N);
  EXPECT_TRUE(std::ranges::is_sorted(token));
  std::set<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::size_t i = 0; i < token.size(); ++i) {
    EXPECT_TRUE(0 <= token[i] && token[i] < tokens) << token[i];
    EXPECT_TRUE(0 <= expert[i] && expert[i] < experts) << expert[i];
    EXPECT_TRUE(pairs.emplace(token[i], expert[i]).second) << "twice: " << token[i] << " " << expert[i];
  }
  if (ragged) return;
  for (std::int64_t t = 0; t < tokens; ++t) EXPECT_EQ(std::ranges::count(token, t), per_token) << t;
}

// That the tokens of both have the same experts, with the same weights and scores. Up to rounding: the vector
// instructions of exp and the like and what they leave at the end of a tensor round differently.
bool same(const Routing& a, const Routing& b, double tolerance = 1e-6) {
  return at::equal(a.token_N, b.token_N) && at::equal(a.expert_N, b.expert_N) &&
         at::allclose(a.weight_N, b.weight_N, tolerance, /*atol=*/0) &&
         at::allclose(a.score_TE, b.score_TE, tolerance, /*atol=*/0);
}

// The tokens from `begin` up to `end`, numbered from 0.
Routing part(const Routing& routing, std::int64_t begin, std::int64_t end) {
  const at::Tensor in = (routing.token_N >= begin) * (routing.token_N < end);
  return {routing.token_N.masked_select(in) - begin, routing.expert_N.masked_select(in),
          routing.weight_N.masked_select(in), routing.score_TE.narrow(0, begin, end - begin)};
}

class EveryRouter : public testing::TestWithParam<Case> {};

TEST_P(EveryRouter, GivesPairsSortedByTokenWithNoExpertTwice) {
  expect_well_formed(GetParam().make()->route(random_logits()), T, E, K, GetParam().traits().ragged);
}

TEST_P(EveryRouter, TakesAnyNumberOfTokensAndOfExperts) {
  for (const std::int64_t tokens : {0, 1, 3})
    for (const auto& [experts, per_token] : {std::pair{1, 1}, {5, 1}, {5, 2}, {5, 5}}) {
      SCOPED_TRACE(fmt::format("{} tokens, {} of {} experts", tokens, per_token, experts));
      expect_well_formed(GetParam().make(experts, per_token)->route(random_logits(tokens, experts)), tokens,
                         experts, per_token, GetParam().traits().ragged);
    }
}

TEST_P(EveryRouter, SumsToOneIfAndOnlyIfItSaysSo) {
  const at::Tensor sum_T = dense_weights(GetParam().make()->route(random_logits())).sum(/*dim=*/1);
  EXPECT_EQ((sum_T - 1).abs().max().item<double>() <= 1e-6, GetParam().traits().sums_to_one) << sum_T;
}

TEST_P(EveryRouter, HasTheGradientThatSmallStepsShow) {
  // In float64. The step leaves every expert where it is, so that central differences are exact to step^2.
  constexpr double kStep = 1e-5, kTolerance = 1e-8;
  const at::Tensor logits = random_logits(/*tokens=*/5).to(at::kDouble);
  const at::Tensor on_weight = random_logits(5, E, 3).to(at::kDouble),
                   on_score = random_logits(5, E, 4).to(at::kDouble);
  const auto loss = [&](const at::Tensor& logits_TE) {
    const Routing routing = GetParam().make()->route(logits_TE);
    return (dense_weights(routing) * on_weight).sum() + (routing.score_TE * on_score).sum();
  };
  const at::Tensor leaf = logits.clone().set_requires_grad(true);
  loss(leaf).backward();
  for (std::int64_t i = 0; i < logits.numel(); ++i) {
    const auto moved = [&](double by) {
      const at::Tensor copy = logits.clone();
      copy.view(-1)[i] += by;
      return loss(copy).item<double>();
    };
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    EXPECT_NEAR(leaf.grad().view(-1)[i].item<double>(), slope, kTolerance) << i;
  }
}

TEST_P(EveryRouter, LooksAtLaterTokensOnlyIfItSaysSo) {
  const at::Tensor before = random_logits(), after = before.clone();
  after.narrow(0, T / 2, T / 2).copy_(3 * random_logits(T / 2, E, 5));
  const Routing first = part(GetParam().make()->route(before), 0, T / 2),
                second = part(GetParam().make()->route(after), 0, T / 2);
  EXPECT_EQ(same(first, second), GetParam().traits().causal);
}

TEST_P(EveryRouter, LooksAtOtherTokensOnlyIfItSaysSo) {
  const at::Tensor logits = random_logits();
  const Routing together = GetParam().make()->route(logits);
  bool independent = true;
  for (std::int64_t t = 0; t < T; ++t)
    independent &= same(part(together, t, t + 1), GetParam().make()->route(logits.narrow(0, t, 1)));
  EXPECT_EQ(independent, GetParam().traits().batch_independent_eval);
}

TEST_P(EveryRouter, GivesTheLowerExpertOfEqualOnes) {
  for (const at::Tensor& logits : {tied_logits(), at::zeros({T, E})}) {
    const at::Tensor chosen_TE = dense_weights(GetParam().make()->route(logits)) != 0;
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t e = 1; e < E; ++e)
        for (std::int64_t lower = 0; lower < e; ++lower)
          EXPECT_FALSE(chosen_TE[t][e].item<bool>() && !chosen_TE[t][lower].item<bool>() &&
                       logits[t][e].item<float>() == logits[t][lower].item<float>())
              << "token " << t << ": " << e << " and not " << lower;
  }
}

TEST_P(EveryRouter, RefusesLogitsThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const at::Tensor logits = random_logits();
    logits[7][3] = bad;
    EXPECT_TRUE(test::fails_with([&] { GetParam().make()->route(logits); }, {"logits", "not finite"})) << bad;
  }
}

TEST_P(EveryRouter, GivesTheSameBitsAgain) {
  const at::Tensor logits = random_logits();
  const auto router = GetParam().make();
  const Routing first = router->route(logits);
  EXPECT_TRUE(same(first, router->route(logits), /*tolerance=*/0));
}

TEST_P(EveryRouter, RemembersWholeNumbersOrFloat32) {
  const auto router = GetParam().make();
  router->after_step(at::arange(E, at::kLong));
  for (const Buffer& buffer : router->buffers()) {
    EXPECT_TRUE(buffer.value.scalar_type() == at::kFloat || buffer.value.scalar_type() == at::kLong)
        << buffer.name;
    EXPECT_TRUE(buffer.value.isfinite().all().item<bool>()) << buffer.name;
  }
}

TEST_P(EveryRouter, RefusesAnUnknownOption) {
  EXPECT_THROW(GetParam().info->make({}, {{"no-such-option", "1"}}), UsageError);
  EXPECT_THROW(GetParam().info->traits({{"no-such-option", "1"}}), UsageError);
}

TEST_P(EveryRouter, SaysWhatItIs) {
  const RouterInfo& info = *GetParam().info;
  EXPECT_FALSE(info.summary.empty() || info.formula.empty() || info.source.empty());
}

INSTANTIATE_TEST_SUITE_P(All, EveryRouter, testing::ValuesIn(cases()),
                         [](const auto& each) { return each.param.name(); });

// The gradient of formulas over all experts with a mask of the chosen ones, in float64: of the sums of
// float64 in another order, and no more.
struct Formula {
  const char* router;
  Values values;
  at::Tensor (*weight_TE)(const at::Tensor& logits_TE, const at::Tensor& chosen_TE);
};

at::Tensor divided(const at::Tensor& p, const at::Tensor& chosen) {
  return p * chosen / (p * chosen).sum(/*dim=*/1, /*keepdim=*/true);
}

// Whose one weight is 1 whatever the logits are: so it is a tensor, and all of it is zero.
TEST(Routers, ThatDivideByTheSumHaveAGradientOfZeroWithOneExpertOfAToken) {
  for (const Case& one : cases()) {
    if (!one.traits().sums_to_one) continue;
    const at::Tensor logits = random_logits().set_requires_grad(true);
    one.make(E, /*per_token=*/1)->route(logits).weight_N.sum().backward();
    ASSERT_TRUE(logits.grad().defined()) << one.name();
    EXPECT_EQ(logits.grad().abs().max().item<float>(), 0) << one.name();
  }
}

TEST(Routers, HaveTheGradientOfTheirFormulaOverAllExperts) {
  const std::vector<Formula> formulas = {
      {"softmax_topk",
       {},
       [](const at::Tensor& z, const at::Tensor& chosen) { return divided(z.softmax(1), chosen); }},
      {"softmax_topk",
       {{"renormalise", "false"}},
       [](const at::Tensor& z, const at::Tensor& chosen) { return z.softmax(1) * chosen; }},
      {"topk_softmax",
       {},
       [](const at::Tensor& z, const at::Tensor& chosen) { return divided(z.exp(), chosen); }},
  };
  const at::Tensor logits = random_logits().to(at::kDouble),
                   on_weight = random_logits(T, E, 3).to(at::kDouble);
  const at::Tensor smallest_T1 = std::get<0>(logits.topk(K, 1)).narrow(1, K - 1, 1);
  for (const Formula& formula : formulas) {
    const at::Tensor masked = logits.clone().set_requires_grad(true),
                     routed = logits.clone().set_requires_grad(true);
    const at::Tensor wanted_TE = formula.weight_TE(masked, (logits >= smallest_T1).to(at::kDouble));
    const auto router =
        find_plugin(routers(), formula.router, "router").make({.experts = E, .per_token = K}, formula.values);
    const at::Tensor found_TE = dense_weights(router->route(routed));
    (wanted_TE * on_weight).sum().backward();
    (found_TE * on_weight).sum().backward();
    EXPECT_LE((found_TE - wanted_TE).abs().max().item<double>(), 1e-14) << formula.router;
    EXPECT_LE((routed.grad() - masked.grad()).abs().max().item<double>(), 1e-14) << formula.router;
  }
}

TEST(Routers, RunEveryTargetAsItPromises) {
  const DenseConfig dense = parse_dense_config(
      R"({"model_type":"llama","vocab_size":300,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,
      "num_attention_heads":4})",
      "config.json");
  for (const Target& target : target::targets()) {
    const nlohmann::json config = nlohmann::json::parse(
        target.config(dense, {.experts = E, .per_token = K, .expert_size = 96}, false, "bfloat16").dump());
    const RouterInfo& info = find_plugin(routers(), target.routing, "router");
    const Values values = target.routing_options(config);
    EXPECT_EQ(info.traits(values).sums_to_one, target.weights_sum_to_one) << target.name;
    EXPECT_NE(info.make({.experts = E, .per_token = K}, values), nullptr) << target.name;
  }
}

}  // namespace
}  // namespace upmoe::routing
