// What every router promises, by its name alone and with options. A new one is enrolled by its registry line.
// Shape letters: T tokens, E experts, X experts with those that compute nothing, K experts of one token, N
// routed pairs, M most experts of any token.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/fails_with.h"
#include "tests/routing/cases.h"
#include "upmoe/base/plugin.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/random/sample.h"
#include "upmoe/routing/select.h"
#include "upmoe/target/registry.h"

namespace upmoe::routing {
namespace {

using namespace test;

// 0, 1 or 2: full of ties.
at::Tensor tied_logits() {
  const at::Tensor out = at::zeros({T, E});
  for (std::int64_t i = 0; i < T * E; ++i)
    out.view(-1)[i] = static_cast<double>(below(Rng(2), static_cast<std::uint64_t>(i), 3));
  return out;
}

// Two sequences, the second of them `second`.
Call two_sequences(const at::Tensor& first_TE, const at::Tensor& second_TE, bool training) {
  Call out = call_of(at::cat({first_TE, second_TE}), training);
  out.runs = {{.sequence = 4, .position = 0, .tokens = first_TE.size(0)},
              {.sequence = 5, .position = 0, .tokens = second_TE.size(0)}};
  return out;
}

std::vector<std::int64_t> ids(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<std::int64_t>(), flat.const_data_ptr<std::int64_t>() + flat.numel()};
}

void expect_well_formed(const Routing& routing, std::int64_t tokens, std::int64_t experts) {
  const std::int64_t N = routing.token_N.numel(), X = routing.score_TX.size(1);
  ASSERT_EQ(routing.token_N.sizes(), at::IntArrayRef({N}));
  ASSERT_EQ(routing.expert_N.sizes(), at::IntArrayRef({N}));
  ASSERT_EQ(routing.weight_N.sizes(), at::IntArrayRef({N}));
  ASSERT_EQ(routing.score_TX.sizes(), at::IntArrayRef({tokens, X}));
  ASSERT_EQ(routing.load_X.sizes(), at::IntArrayRef({X}));
  ASSERT_EQ(routing.chosen_TM.size(0), tokens);
  ASSERT_GE(X, experts);
  EXPECT_EQ(routing.extra_TH.defined(), X > experts);
  for (const at::Tensor& whole : {routing.token_N, routing.expert_N, routing.chosen_TM, routing.load_X})
    EXPECT_EQ(whole.scalar_type(), at::kLong);
  EXPECT_EQ(routing.weight_N.scalar_type(), at::kFloat);
  EXPECT_EQ(routing.score_TX.scalar_type(), at::kFloat);
  EXPECT_TRUE(routing.weight_N.isfinite().all().item<bool>());
  EXPECT_TRUE(routing.score_TX.isfinite().all().item<bool>());
  const std::vector<std::int64_t> token = ids(routing.token_N), expert = ids(routing.expert_N);
  EXPECT_TRUE(std::ranges::is_sorted(token));
  const at::Tensor chosen_TX = mask_of(routing.chosen_TM, X);
  std::set<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::size_t i = 0; i < token.size(); ++i) {
    EXPECT_TRUE(0 <= token[i] && token[i] < tokens) << token[i];
    EXPECT_TRUE(0 <= expert[i] && expert[i] < experts) << expert[i];
    EXPECT_TRUE(pairs.emplace(token[i], expert[i]).second) << "twice: " << token[i] << " " << expert[i];
    EXPECT_TRUE(chosen_TX[token[i]][expert[i]].item<bool>()) << token[i] << " did not choose " << expert[i];
  }
  EXPECT_TRUE(at::equal(routing.load_X, chosen_TX.sum(0)));
}

class EveryRouter : public testing::TestWithParam<Case> {
 protected:
  static Routing route(const Call& call) { return GetParam().make(call.gate_EH.size(0))->route(call); }
};

TEST_P(EveryRouter, GivesPairsSortedByTokenWithNoExpertTwice) {
  for (const bool training : {false, true})
    expect_well_formed(route(call_of(random_logits(), training)), T, E);
}

TEST_P(EveryRouter, GivesEveryTokenKExpertsUnlessItSaysOtherwise) {
  const Routing routing = route(call_of(random_logits()));
  const at::Tensor number_T = (routing.chosen_TM >= 0).sum(1);
  EXPECT_TRUE(GetParam().traits().ragged ||
              at::equal(number_T, at::full_like(number_T, GetParam().per_token())));
}

TEST_P(EveryRouter, TakesAnyNumberOfTokensAndOfExperts) {
  for (const std::int64_t tokens : {0, 1, 3})
    for (const auto& [experts, per_token] : {std::pair{2, 1}, {2, 2}, {5, 1}, {5, 2}, {5, 5}, {64, 8}})
      for (const bool training : {false, true}) {
        SCOPED_TRACE(fmt::format("{} tokens, {} of {} experts", tokens, per_token, experts));
        expect_well_formed(
            GetParam().make(experts, per_token)->route(call_of(random_logits(tokens, experts), training)),
            tokens, experts);
      }
}

TEST_P(EveryRouter, SumsToOneIfAndOnlyIfItSaysSo) {
  const at::Tensor sum_T = dense_weights(route(call_of(random_logits()))).sum(/*dim=*/1);
  EXPECT_EQ((sum_T - 1).abs().max().item<double>() <= 1e-6, GetParam().traits().sums_to_one) << sum_T;
}

TEST_P(EveryRouter, StartsWithTheSumOfWeightsThatItSays) {
  const at::Tensor sum_T = dense_weights(route(call_of(1e-3 * random_logits(4096)))).sum(/*dim=*/1);
  EXPECT_NEAR(sum_T.mean().item<double>(), GetParam().traits().sum_at_start, 0.01);
}

TEST_P(EveryRouter, HasTheGradientThatSmallStepsShow) {
  // In float64. The step leaves every expert where it is, so that central differences are exact to step^2.
  constexpr double kStep = 1e-5, kTolerance = 1e-8;
  const at::Tensor x = random_logits(/*tokens=*/5).to(at::kDouble);
  const auto router = GetParam().make();
  std::vector<std::pair<at::Tensor, at::Tensor*>> leaves;  // with where it is put; x has no such place
  leaves.emplace_back(x.clone().set_requires_grad(true), nullptr);
  for (const State& state : router->parameters()) {
    const at::Tensor scattered = state.value->detach().to(at::kDouble) +
                                 0.3 * random_logits(1, state.value->numel(), 9).view_as(*state.value);
    leaves.emplace_back(scattered.set_requires_grad(true), state.value);
  }
  const auto loss = [&](const std::vector<std::pair<at::Tensor, at::Tensor*>>& at) {
    for (const auto& [value, place] : at)
      if (place != nullptr) *place = value;
    const Routing routing = router->route(call_of(at[0].first));
    const std::int64_t X = routing.score_TX.size(1);
    const at::Tensor of_extra =
        routing.extra_TH.defined() ? routing.extra_TH.sum() : at::zeros({}, x.options());
    return (dense_weights(routing) * random_logits(5, X, 3)).sum() +
           (routing.score_TX * random_logits(5, X, 4)).sum() + of_extra;
  };
  const at::Tensor value = loss(leaves);
  if (value.requires_grad()) value.backward();  // else nothing that could be learned decides anything
  for (std::size_t leaf = 0; leaf < leaves.size(); ++leaf)
    for (std::int64_t i = 0; i < leaves[leaf].first.numel(); ++i) {
      const auto moved = [&](double by) {
        auto other = leaves;
        other[leaf].first = leaves[leaf].first.detach().clone();
        other[leaf].first.view(-1)[i] += by;
        return loss(other).item<double>();
      };
      const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
      const at::Tensor& grad = leaves[leaf].first.grad();
      EXPECT_NEAR(grad.defined() ? grad.view(-1)[i].item<double>() : 0, slope, kTolerance)
          << leaf << ", " << i;
    }
}

TEST_P(EveryRouter, LooksAtLaterTokensOnlyIfItSaysSo) {
  const at::Tensor before = random_logits(), after = before.clone();
  after.narrow(0, T / 2, T / 2).copy_(3 * random_logits(T / 2, E, 5));
  for (const bool training : {false, true}) {
    const Promises promises = training ? GetParam().traits().training : GetParam().traits().evaluation;
    EXPECT_EQ(same(part(route(call_of(before, training)), 0, T / 2),
                   part(route(call_of(after, training)), 0, T / 2)),
              promises.causal)
        << (training ? "training" : "evaluation");
  }
}

TEST_P(EveryRouter, LooksAtOtherSequencesOnlyIfItSaysSo) {
  const at::Tensor mine = random_logits();
  for (const bool training : {false, true}) {
    const Promises promises = training ? GetParam().traits().training : GetParam().traits().evaluation;
    const auto beside = [&](const at::Tensor& other) {
      return part(route(two_sequences(mine, other, training)), 0, T);
    };
    EXPECT_EQ(same(beside(random_logits(T, E, 5)), beside(3 * random_logits(T / 2, E, 6))),
              promises.batch_independent)
        << (training ? "training" : "evaluation");
  }
}

TEST_P(EveryRouter, LooksAtOtherTokensOnlyIfItSaysSo) {
  const Call all = call_of(random_logits());
  const Routing together = route(all);
  bool independent = true;
  for (std::int64_t t = 0; t < T; ++t) {
    Call one = call_of(all.x_TH.narrow(0, t, 1));
    one.token_id_T = all.token_id_T.narrow(0, t, 1);
    one.runs = {{.sequence = 0, .position = t, .tokens = 1}};
    independent &= same(part(together, t, t + 1), route(one));
  }
  EXPECT_EQ(independent, GetParam().traits().token_independent);
}

TEST_P(EveryRouter, LooksAtRealTokensAlone) {
  const at::Tensor before = random_logits(), after = before.clone();
  after.narrow(0, T / 2, T / 4).copy_(3 * random_logits(T / 4, E, 5));
  const at::Tensor valid_T = at::ones({T}, at::kBool);
  valid_T.narrow(0, T / 2, T / 4).fill_(0);
  for (const bool training : {false, true}) {
    const auto real = [&](const at::Tensor& logits, std::int64_t begin, std::int64_t end) {
      Call call = call_of(logits, training);
      call.valid_T = valid_T;
      return part(route(call), begin, end);
    };
    EXPECT_TRUE(same(real(before, 0, T / 2), real(after, 0, T / 2)));
    EXPECT_TRUE(same(real(before, 3 * T / 4, T), real(after, 3 * T / 4, T)));
  }
}

TEST_P(EveryRouter, CountsTheChoicesOfRealTokensBeforeAnyIsDropped) {
  Call call = call_of(random_logits(), /*training=*/true);
  call.valid_T = at::arange(T, at::kLong).remainder(3) != 0;
  const Routing routing = route(call);
  const at::Tensor chosen_TX = mask_of(routing.chosen_TM, routing.score_TX.size(1));
  EXPECT_TRUE(at::equal(routing.load_X, (chosen_TX * call.valid_T.unsqueeze(1)).sum(0)));
  EXPECT_GT(routing.load_X.sum().item<std::int64_t>(), 0);
}

TEST_P(EveryRouter, GivesTheLowerExpertOfEqualOnes) {
  if (!GetParam().traits().token_independent || GetParam().traits().needs_token_ids) return;
  for (const at::Tensor& logits : {tied_logits(), at::zeros({T, E})}) {
    const Routing routing = route(call_of(logits));
    if (!routing.logits_TX.defined()) return;
    const std::int64_t X = routing.score_TX.size(1);
    const at::Tensor chosen_TX = mask_of(routing.chosen_TM, X), z = routing.logits_TX;
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t e = 1; e < X; ++e)
        for (std::int64_t lower = 0; lower < e; ++lower)
          EXPECT_FALSE(chosen_TX[t][e].item<bool>() && !chosen_TX[t][lower].item<bool>() &&
                       z[t][e].item<float>() == z[t][lower].item<float>())
              << "token " << t << ": " << e << " and not " << lower;
  }
}

TEST_P(EveryRouter, RefusesLogitsThatAreNotFiniteAndInTrainingLetsTheLossSeeThem) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const at::Tensor logits = random_logits();
    logits[7][3] = bad;
    if (!route(call_of(random_logits())).logits_TX.defined()) return;
    EXPECT_TRUE(upmoe::test::fails_with([&] { route(call_of(logits)); }, {"logits", "not finite"})) << bad;
    const Routing routing = route(call_of(logits, /*training=*/true));
    EXPECT_FALSE(routing.loss.isfinite().item<bool>()) << bad;
    EXPECT_FALSE(routing.weight_N.isfinite().any().item<bool>()) << bad;
  }
}

TEST_P(EveryRouter, GivesTheSameBitsAgain) {
  const auto router = GetParam().make();
  for (const bool training : {false, true}) {
    const Call call = call_of(random_logits(), training);
    EXPECT_TRUE(same(router->route(call), router->route(call), /*tolerance=*/0));
  }
}

TEST_P(EveryRouter, DrawsInTrainingAloneAndOnlyIfItSaysSo) {
  for (const bool training : {false, true}) {
    const auto router = GetParam().make();
    Call call = call_of(random_logits(), training);
    const Routing one = router->route(call);
    call.key = Rng(4);
    EXPECT_EQ(!same(one, router->route(call)), training && GetParam().traits().draws);
  }
}

TEST_P(EveryRouter, GivesChancesInTrainingAloneAndOnlyIfItSaysSo) {
  for (const bool training : {false, true}) {
    const at::Tensor chance_TX = route(call_of(random_logits(), training)).chance_TX;
    ASSERT_EQ(chance_TX.defined(), training && GetParam().traits().has_chance);
    if (!chance_TX.defined()) continue;
    EXPECT_EQ(chance_TX.sizes(), at::IntArrayRef({T, E}));
    EXPECT_TRUE(((chance_TX >= 0) * (chance_TX <= 1)).all().item<bool>());
  }
}

TEST_P(EveryRouter, DrawsTheSameForATokenInWhateverBatchItIs) {
  if (!GetParam().traits().training.batch_independent) return;
  const at::Tensor first = random_logits(), second = random_logits(T, E, 5);
  const Routing together = route(two_sequences(first, second, /*training=*/true));
  for (const std::int64_t i : {0, 1}) {
    Call alone = call_of(i == 0 ? first : second, /*training=*/true);
    alone.runs = {{.sequence = 4 + i, .position = 0, .tokens = T}};
    alone.token_id_T = at::arange(i * T, (i + 1) * T, at::kLong);
    EXPECT_TRUE(same(part(together, i * T, (i + 1) * T), route(alone)));
  }
}

TEST_P(EveryRouter, ReplaysWhatWasChosen) {
  for (const bool training : {false, true}) {
    Call call = call_of(random_logits(), training);
    const Routing first = route(call);
    call.replay_TM = first.chosen_TM;
    EXPECT_TRUE(same(first, route(call)));
    Call other = call_of(random_logits(T, E, 5), training);
    other.replay_TM = first.chosen_TM;
    const Routing replayed = route(other);
    const std::int64_t X = first.score_TX.size(1);
    EXPECT_TRUE(at::equal(mask_of(replayed.chosen_TM, X), mask_of(first.chosen_TM, X)));
    expect_well_formed(replayed, T, E);
  }
}

TEST_P(EveryRouter, TakesActivationsOf16BitsAndKeepsFloat32) {
  const Routing rounded = route(call_of(random_logits().to(at::kBFloat16)));
  expect_well_formed(rounded, T, E);
  EXPECT_TRUE(same(rounded, route(call_of(random_logits().to(at::kBFloat16).to(at::kFloat))), 1e-5));
}

TEST_P(EveryRouter, RemembersWholeNumbersOrFloat32) {
  const auto router = GetParam().make();
  Routing routing = router->route(call_of(random_logits(), /*training=*/true));
  router->after_step({.load_X = routing.load_X, .tokens = T, .step = 0, .learning_rate = 1e-3});
  std::set<std::string> names;
  for (const auto& states : {router->parameters(), router->buffers()})
    for (const State& state : states) {
      EXPECT_TRUE(names.insert(state.name).second) << state.name;
      EXPECT_TRUE(state.value->scalar_type() == at::kFloat || state.value->scalar_type() == at::kLong)
          << state.name;
      EXPECT_TRUE(state.value->isfinite().all().item<bool>()) << state.name;
    }
  for (const State& state : router->parameters()) EXPECT_TRUE(state.value->requires_grad()) << state.name;
}

TEST_P(EveryRouter, GoesOnAsAnotherWhoseStateIsPutInItsPlace) {
  const auto first = GetParam().make(), second = GetParam().make();
  for (std::int64_t step = 0; step < 3; ++step) {
    const Routing routing = first->route(call_of(random_logits(T, E, 20 + step), /*training=*/true));
    first->after_step({.load_X = routing.load_X, .tokens = T, .step = step, .learning_rate = 1e-3});
  }
  for (const auto& [from, to] :
       {std::pair{first->parameters(), second->parameters()}, {first->buffers(), second->buffers()}})
    for (std::size_t i = 0; i < from.size(); ++i) to[i].value->detach().copy_(from[i].value->detach());
  for (const bool training : {false, true}) {
    const Call call = call_of(random_logits(), training);
    EXPECT_TRUE(same(first->route(call), second->route(call), /*tolerance=*/0));
  }
}

TEST_P(EveryRouter, RefusesAnUnknownOption) {
  const RouterInfo& info = *GetParam().info;
  const Values unknown = {{"no-such-option", "1"}};
  EXPECT_THROW(info.make(GetParam().shape(), unknown), UsageError);
  EXPECT_THROW(info.traits(GetParam().shape(), unknown), UsageError);
  EXPECT_THROW(info.holders(unknown), UsageError);
}

TEST_P(EveryRouter, SaysWhatItIsAndWhatCanHoldIt) {
  const RouterInfo& info = *GetParam().info;
  EXPECT_FALSE(info.summary.empty() || info.formula.empty() || info.source.empty());
  const Holders holders = info.holders(GetParam().values);
  EXPECT_NE(holders.by.empty(), holders.why_not.empty());
}

INSTANTIATE_TEST_SUITE_P(All, EveryRouter, testing::ValuesIn(cases()),
                         [](const auto& each) { return each.param.name(); });

TEST(Routers, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const RouterInfo& info : routers()) EXPECT_TRUE(names.insert(info.name).second) << info.name;
}

// Whose one weight is 1 whatever the logits are: so it is a tensor, and all of it is zero.
TEST(Routers, ThatDivideByTheSumHaveAGradientOfZeroWithOneExpertOfAToken) {
  for (const char* name : {"softmax_topk", "topk_softmax"}) {
    const Case one{&find_plugin(routers(), name, "router"), {}};
    const at::Tensor logits = random_logits().set_requires_grad(true);
    one.make(E, /*per_token=*/1)->route(call_of(logits)).weight_N.sum().backward();
    ASSERT_TRUE(logits.grad().defined()) << one.name();
    EXPECT_EQ(logits.grad().abs().max().item<float>(), 0) << one.name();
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
    EXPECT_EQ(info.traits({}, values).sums_to_one, target.weights_sum_to_one) << target.name;
    EXPECT_NE(info.make({.experts = E, .per_token = K}, values), nullptr) << target.name;
  }
}

}  // namespace
}  // namespace upmoe::routing
