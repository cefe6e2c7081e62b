// What every balancing loss promises, with every router that it can be trained with. A new one is enrolled by
// its registry line. Shape letters: T tokens, E experts, K experts of one token.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/fails_with.h"
#include "tests/routing/cases.h"
#include "upmoe/balance/registry.h"
#include "upmoe/balance/term.h"
#include "upmoe/base/plugin.h"

namespace upmoe::balance {
namespace {

namespace rt = routing::test;
using rt::E, rt::K;

constexpr std::int64_t kSequences = 8, kLength = 6, kLayers = 2;

struct Pair {
  const LossInfo* loss;
  const routing::RouterInfo* router;
  Scope scope;

  std::string name() const {
    const char* scopes[] = {"sequence", "micro_batch", "step"};
    return loss->name + "_" + router->name + "_" + scopes[static_cast<std::size_t>(scope)];
  }
  std::string text() const {
    const char* scopes[] = {"sequence", "micro-batch", "step"};
    return loss->name + ",scope=" + scopes[static_cast<std::size_t>(scope)];
  }
  routing::RouterShape shape() const { return rt::Case{router, {}}.shape(); }
  LossShape loss_shape() const { return {.experts = E, .per_token = router->per_token(shape())}; }
};
void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.name(); }

std::vector<Pair> pairs() {
  std::vector<Pair> out;
  for (const LossInfo& loss : losses())
    for (const routing::RouterInfo& router : routing::routers())
      for (const Scope scope : {Scope::sequence, Scope::micro_batch, Scope::step}) {
        const Pair pair{&loss, &router, scope};
        if (loss.why_not(router.traits(pair.shape(), {})).empty()) out.push_back(pair);
      }
  return out;
}

// Sequences of a batch of two layers; x is the leaf that gradients are asked of.
struct Sample {
  at::Tensor x_TH, valid_T;
  std::vector<routing::Run> runs;
  at::Tensor gate_EH;
};

Sample sample(at::ScalarType dtype) {
  Sample out;
  const std::int64_t T = kSequences * kLength;
  out.x_TH = rt::random_logits(T, E, 1).to(dtype).set_requires_grad(true);
  out.gate_EH = rt::random_logits(E, E, 2).to(dtype);
  out.valid_T = at::ones({T}, at::kBool);
  for (std::int64_t s = 0; s < kSequences; ++s) {
    out.runs.push_back({.sequence = s, .position = 0, .tokens = kLength});
    out.valid_T.narrow(0, s * kLength + kLength - s % 3, s % 3).fill_(0);  // padding behind some
  }
  return out;
}

// Some sequences of it.
Sample part(const Sample& all, std::int64_t first, std::int64_t count) {
  Sample out = all;
  out.x_TH = all.x_TH.narrow(0, first * kLength, count * kLength);
  out.valid_T = all.valid_T.narrow(0, first * kLength, count * kLength);
  out.runs.assign(all.runs.begin() + first, all.runs.begin() + first + count);
  return out;
}

MicroBatch routed(const Pair& pair, const Sample& sample) {
  MicroBatch out{.layers = {}, .valid_T = sample.valid_T, .runs = sample.runs};
  const auto router = rt::Case{pair.router, {}}.make();
  for (std::int64_t l = 0; l < kLayers; ++l) {
    routing::Call call;
    call.x_TH = sample.x_TH * (1.0 + static_cast<double>(l));
    call.gate_EH = sample.gate_EH;
    call.token_id_T = at::arange(sample.x_TH.size(0), at::kLong);
    call.valid_T = sample.valid_T;
    call.runs = sample.runs;
    call.training = true;
    call.key = Rng(5).at(static_cast<std::uint64_t>(l));
    out.layers.push_back(router->route(call));
  }
  return out;
}

StepSize size_of(const Sample& sample, std::int64_t micro_batches) {
  return {.micro_batches = micro_batches,
          .sequences = kSequences,
          .tokens = sample.valid_T.sum().item<std::int64_t>()};
}

// The loss of the step, cut into so many micro-batches, as a trainer adds it up.
at::Tensor step_loss(const Pair& pair, const Sample& all, std::int64_t micro_batches) {
  const Term term(pair.text(), pair.loss_shape());
  const StepSize size = size_of(all, micro_batches);
  const std::int64_t count = kSequences / micro_batches;
  at::Tensor totals, sum;
  if (term.needs_totals(size))
    for (std::int64_t m = 0; m < micro_batches; ++m) {
      const at::Tensor one = term.totals(routed(pair, part(all, m * count, count)));
      totals = totals.defined() ? totals + one : one;
    }
  for (std::int64_t m = 0; m < micro_batches; ++m) {
    const at::Tensor one = term.loss(routed(pair, part(all, m * count, count)), size, totals);
    sum = sum.defined() ? sum + one : one;
  }
  return sum;
}

class EveryLoss : public testing::TestWithParam<Pair> {};

TEST_P(EveryLoss, IsTheSameHoweverAStepIsCut) {
  const routing::RouterTraits traits = GetParam().router->traits(GetParam().shape(), {});
  if (GetParam().scope == Scope::micro_batch || !traits.training.batch_independent) return;
  constexpr double kTolerance = 1e-5;
  Sample all = sample(at::kFloat);
  const at::Tensor whole = step_loss(GetParam(), all, 1);
  whole.backward();
  const at::Tensor slope = all.x_TH.grad().clone();
  for (const std::int64_t micro_batches : {2, 4, 8}) {
    all.x_TH.mutable_grad().reset();
    const at::Tensor cut = step_loss(GetParam(), all, micro_batches);
    cut.backward();
    EXPECT_NEAR(cut.item<double>(), whole.item<double>(), kTolerance * std::abs(whole.item<double>()));
    EXPECT_LE((all.x_TH.grad() - slope).abs().max().item<double>(),
              kTolerance * slope.abs().max().item<double>())
        << micro_batches;
  }
}

TEST_P(EveryLoss, HasTheGradientThatSmallStepsShow) {
  constexpr double kStep = 1e-6, kTolerance = 1e-6;
  const Sample all = sample(at::kDouble);
  step_loss(GetParam(), all, 2).backward();
  // What a loss counts has no gradient, and no small step changes it.
  const at::Tensor base = all.x_TH.detach().clone();
  for (std::int64_t i = 0; i < base.numel(); i += 41) {
    const auto moved = [&](double by) {
      Sample other = all;
      other.x_TH = base.clone();
      other.x_TH.view(-1)[i] += by;
      return step_loss(GetParam(), other, 2).item<double>();
    };
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep),
                 found = all.x_TH.grad().view(-1)[i].item<double>();
    EXPECT_NEAR(found, slope, kTolerance * (1 + std::abs(slope))) << i;
  }
}

TEST_P(EveryLoss, DoesNotSeePadding) {
  Sample all = sample(at::kFloat);
  all.x_TH = all.x_TH.detach();
  Sample other = all;
  other.x_TH = all.x_TH.masked_fill(all.valid_T.logical_not().unsqueeze(1), 3.5);
  EXPECT_EQ(step_loss(GetParam(), all, 2).item<double>(), step_loss(GetParam(), other, 2).item<double>());
}

TEST_P(EveryLoss, DoesNotSeeEmptySequences) {
  Sample all = sample(at::kFloat), longer = all;
  longer.x_TH = at::cat({all.x_TH, all.x_TH});
  longer.valid_T = at::cat({all.valid_T, at::zeros_like(all.valid_T)});
  for (std::int64_t s = 0; s < kSequences; ++s)
    longer.runs.push_back({.sequence = kSequences + s, .position = 0, .tokens = kLength});
  const Term term(GetParam().text(), GetParam().loss_shape());
  const StepSize size = size_of(all, 1);
  EXPECT_NEAR(term.loss(routed(GetParam(), all), size).item<double>(),
              term.loss(routed(GetParam(), longer), size).item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(All, EveryLoss, testing::ValuesIn(pairs()),
                         [](const auto& each) { return each.param.name(); });

// Each token has other experts, in turn, and equal scores for all of them.
routing::Routing balanced(std::int64_t K_) {
  const std::int64_t T = 4 * E;
  routing::Routing out;
  out.token_N = at::arange(T, at::kLong).repeat_interleave(K_);
  out.chosen_TM = (at::arange(T, at::kLong).unsqueeze(1) + at::arange(K_, at::kLong)).remainder(E);
  out.expert_N = out.chosen_TM.flatten();
  out.weight_N = at::full({T * K_}, 1.0 / static_cast<double>(K_));
  out.score_TX = at::full({T, E}, 1.0 / static_cast<double>(E));
  out.logits_TX = at::zeros({T, E});
  out.chance_TX = at::full({T, E}, static_cast<double>(K_) / static_cast<double>(E));
  return out;
}

TEST(Losses, HaveTheirBalancedValueWhereAllExpertsAreEqual) {
  for (const LossInfo& info : losses())
    for (const std::int64_t k : {1, 2, 8}) {
      if (info.name == "z" || info.name == "entropy") continue;  // are not about balance
      const Term term(info.name, {.experts = E, .per_token = k});
      const at::Tensor found = term.loss({.layers = {balanced(k)}, .valid_T = {}, .runs = {}},
                                         {.micro_batches = 1, .sequences = 1, .tokens = 4 * E});
      EXPECT_NEAR(found.item<double>(), info.balanced({.experts = E, .per_token = k}), 1e-6)
          << info.name << " " << k;
    }
}

TEST(Losses, SayWhatTheyAre) {
  std::set<std::string> names;
  for (const LossInfo& info : losses()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_FALSE(info.summary.empty() || info.formula.empty() || info.source.empty());
    EXPECT_GT(info.coefficient, 0);
  }
}

TEST(Losses, OfEveryLayerAreAddedUpAndJointOnesAreNot) {
  // Two layers that have each collapsed, onto different halves of the experts.
  const auto collapsed = [](std::int64_t first) {
    routing::Routing out = balanced(2);
    out.chosen_TM = at::arange(2, at::kLong).expand_as(out.chosen_TM) + first;
    out.expert_N = out.chosen_TM.flatten();
    out.score_TX = at::zeros_like(out.score_TX);
    out.score_TX.narrow(1, first, 2).fill_(0.5);
    return out;
  };
  const MicroBatch batch{
      .layers = {collapsed(0), collapsed(2), collapsed(4), collapsed(6)}, .valid_T = {}, .runs = {}};
  const StepSize step{.micro_batches = 1, .sequences = 1, .tokens = 4 * E};
  const LossShape shape{.experts = E, .per_token = 2};
  EXPECT_NEAR(Term("switch", shape).loss(batch, step).item<double>(), 4 * 4.0,
              1e-5);  // four times what is balanced
  EXPECT_NEAR(Term("joint", shape).loss(batch, step).item<double>(), 2.0, 1e-6);  // looks balanced
}

TEST(Losses, HaveACoefficientThatFollowsItsSchedule) {
  const LossShape shape;
  EXPECT_EQ(Term("switch", shape).coefficient(0), 0.01);
  EXPECT_EQ(Term("switch:0.5", shape).coefficient(1000), 0.5);
  const Term linear("switch:1,schedule=linear,warmup=2,until=12,end=0.5", shape);
  EXPECT_EQ(linear.coefficient(0), 0.5);
  EXPECT_EQ(linear.coefficient(1), 1);
  EXPECT_NEAR(linear.coefficient(7), 0.75, 1e-12);
  EXPECT_NEAR(linear.coefficient(12), 0.5, 1e-12);
  EXPECT_NEAR(linear.coefficient(999), 0.5, 1e-12);
  const Term cosine("z:2,schedule=cosine,until=10", shape);
  EXPECT_NEAR(cosine.coefficient(5), 1, 1e-12);
  EXPECT_NEAR(cosine.coefficient(10), 0, 1e-12);
}

TEST(Losses, ArePairedWithRoutersOrRefusedWithAReason) {
  const auto why = [](const char* loss, const char* router) {
    return find_plugin(losses(), loss, "balancing loss")
        .why_not(find_plugin(routing::routers(), router, "router").traits({}, {}));
  };
  EXPECT_EQ(why("switch", "softmax_topk"), "");
  EXPECT_EQ(why("load", "noisy_topk"), "");
  EXPECT_EQ(why("relu_l1", "relu"), "");
  EXPECT_NE(why("load", "softmax_topk"), "");
  EXPECT_NE(why("relu_l1", "top_p"), "");
  EXPECT_NE(why("switch", "expert_choice"), "");
  EXPECT_NE(why("switch", "dense"), "");
  for (const LossInfo& loss : losses()) EXPECT_NE(why(loss.name.c_str(), "hash"), "") << loss.name;
  EXPECT_TRUE(upmoe::test::fails_with(
      [] {
        require_fit(find_plugin(losses(), "load", "loss"),
                    find_plugin(routing::routers(), "switch", "router"), {}, {});
      },
      {"'load' can't be trained with the router 'switch'", "noisy_topk"}));
}

TEST(Losses, AreRefusedWhereTheyAreWrong) {
  using upmoe::test::fails_with;
  const auto make = [](const char* text) { return [=] { Term(text, {}); }; };
  EXPECT_TRUE(fails_with(make("swich"), {"no balancing loss 'swich'", "switch"}));
  EXPECT_TRUE(fails_with(make("switch:much"), {"coefficient 'much'"}));
  EXPECT_TRUE(fails_with(make("switch:-1"), {"coefficient '-1'"}));
  EXPECT_TRUE(fails_with(make("switch:nan"), {"coefficient 'nan'"}));
  EXPECT_TRUE(fails_with(make("switch,scope=all"), {"scope", "'all'", "micro-batch"}));
  EXPECT_TRUE(fails_with(make("switch,schedule=linear"), {"until"}));
  EXPECT_TRUE(fails_with(make("switch,extras=1"), {"no option 'extras'", "extra"}));
  EXPECT_TRUE(fails_with(make("switch,extra"), {"'extra' is not KEY=VALUE"}));
}

}  // namespace
}  // namespace upmoe::balance
