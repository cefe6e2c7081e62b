#include "upmoe/eval/expert_use.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "upmoe/routing/select.h"

namespace {

using namespace upmoe;
using eval::ExpertUse;

constexpr std::int64_t kExperts = 4;

model::ModelConfig config_of_one_layer(std::int64_t experts = kExperts) {
  model::ModelConfig config;
  config.llama.num_layers = 1;
  config.moe.emplace();
  config.moe->shape.experts = experts;
  return config;
}

// Each token goes with the weights to the experts in its row.
void add(ExpertUse& use, const at::Tensor& logits_NE, const at::Tensor& expert_NK,
         const at::Tensor& weight_NK) {
  const std::int64_t N = expert_NK.size(0);
  routing::Routing routing = routing::from_topk(expert_NK, weight_NK, logits_NE.softmax(-1));
  const at::Tensor in_NH = at::zeros({N, 1}), none;
  routing.logits_TX = logits_NE;
  use.add({0, in_NH, none, in_NH, &routing});
}

at::Tensor experts(std::vector<std::int64_t> numbers, std::int64_t K) {
  return at::tensor(numbers).view({-1, K});
}

ExpertUse::Layer layer_of(const at::Tensor& logits_NE, const at::Tensor& expert_NK) {
  ExpertUse use(config_of_one_layer(), /*pairs=*/true);
  add(use, logits_NE, expert_NK, at::full(expert_NK.sizes(), 1.0 / static_cast<double>(expert_NK.size(1))));
  return use.layers().at(0);
}

TEST(ExpertUse, OfEvenLoadsHasEntropyOneAndNoViolation) {
  const ExpertUse::Layer layer = layer_of(at::zeros({4, kExperts}), experts({0, 1, 1, 2, 2, 3, 3, 0}, 2));
  EXPECT_EQ(layer.load_E, (std::vector<std::int64_t>{2, 2, 2, 2}));
  EXPECT_EQ(layer.together_EE[1], (std::vector<std::int64_t>{1, 2, 1, 0}));
  EXPECT_NEAR(layer.load_entropy, 1, 1e-12);
  EXPECT_NEAR(layer.router_entropy.value(), 1, 1e-6);  // of float32 probabilities
  EXPECT_NEAR(layer.mean_entropy.value(), 1, 1e-6);
  EXPECT_EQ(layer.max_violation, 0);
  EXPECT_EQ(layer.unused, 0);
  EXPECT_EQ(layer.top_weight, 0.5);
  EXPECT_EQ(layer.logit_std.value(), 0);
}

TEST(ExpertUse, OfASingleBusyExpertHasEntropyZeroAndTheLargestViolation) {
  const at::Tensor logits_NE = at::tensor({1000.0F, 0.0F, 0.0F, 0.0F}).repeat({3, 1});
  const ExpertUse::Layer layer = layer_of(logits_NE, experts({0, 0, 0}, 1));
  EXPECT_EQ(layer.load_entropy, 0);
  EXPECT_NEAR(layer.router_entropy.value(), 0, 1e-6);
  EXPECT_EQ(layer.max_violation, kExperts - 1);
  EXPECT_EQ(layer.unused, kExperts - 1);
  EXPECT_EQ(layer.top_weight, 1);
  EXPECT_NEAR(layer.logit_std.value(), 1000 * std::sqrt(3.0) / 4, 1e-3);
}

TEST(ExpertUse, TellsSureRoutersThatDifferFromAnUnsureOne) {
  const at::Tensor sure = 1000 * at::tensor({1.0F, 0.0F, 0.0F, 0.0F, 0.0F, 1.0F, 0.0F, 0.0F}).view({2, 4});
  const ExpertUse::Layer layer = layer_of(sure, experts({0, 1}, 1));
  EXPECT_NEAR(layer.router_entropy.value(), 0, 1e-6);
  EXPECT_NEAR(layer.mean_entropy.value(), 0.5, 1e-6);  // log 2 of log 4
}

TEST(ExpertUse, MeasuresNothingOfLogitsThatARouterDoesNotHave) {
  ExpertUse use(config_of_one_layer(), /*pairs=*/true);
  routing::Routing routing =
      routing::from_topk(experts({0, 1, 1}, 1), at::full({3, 1}, 1.0), at::zeros({3, kExperts}));
  const at::Tensor in_NH = at::zeros({3, 1}), none;
  use.add({0, in_NH, none, in_NH, &routing});
  const ExpertUse::Layer layer = use.layers().at(0);
  EXPECT_FALSE(layer.router_entropy || layer.mean_entropy || layer.logit_std);
  EXPECT_EQ(layer.load_E, (std::vector<std::int64_t>{1, 2, 0, 0}));
}

TEST(ExpertUse, IsTheSameForAnyCutIntoBatches) {
  const at::Tensor logits_NE = at::arange(6 * kExperts).remainder(7).to(at::kFloat).view({6, kExperts}),
                   expert_NK = experts({0, 1, 2, 3, 1, 3, 0, 2, 3, 1, 0, 3}, 2),
                   weight_NK = at::arange(1, 13).to(at::kFloat).view({6, 2}) / 13;
  ExpertUse whole(config_of_one_layer(), /*pairs=*/true), cut(config_of_one_layer(), /*pairs=*/true);
  add(whole, logits_NE, expert_NK, weight_NK);
  for (const auto& [begin, count] : {std::pair{0, 1}, {1, 3}, {4, 2}})
    add(cut, logits_NE.narrow(0, begin, count), expert_NK.narrow(0, begin, count),
        weight_NK.narrow(0, begin, count));
  const ExpertUse::Layer a = whole.layers().at(0), b = cut.layers().at(0);
  EXPECT_EQ(whole.tokens(), cut.tokens());
  EXPECT_EQ(a.load_E, b.load_E);
  EXPECT_EQ(a.together_EE, b.together_EE);
  for (const auto of :
       {&ExpertUse::Layer::load_entropy, &ExpertUse::Layer::top_weight, &ExpertUse::Layer::max_violation})
    EXPECT_NEAR(a.*of, b.*of, 1e-6);  // float32 sums of a batch
  for (const auto of :
       {&ExpertUse::Layer::router_entropy, &ExpertUse::Layer::mean_entropy, &ExpertUse::Layer::logit_std})
    EXPECT_NEAR((a.*of).value(), (b.*of).value(), 1e-6);
}

TEST(ExpertUse, CountsPairsOnlyWhereItIsAskedForAndTheTableIsSmall) {
  const auto paired = [](std::int64_t experts, bool pairs) {
    return !ExpertUse(config_of_one_layer(experts), pairs).layers().at(0).together_EE.empty();
  };
  EXPECT_TRUE(paired(eval::kMostPaired, true));
  EXPECT_FALSE(paired(eval::kMostPaired, false));
  EXPECT_FALSE(paired(100'000, true));
}

TEST(ExpertUse, OfADenseModelIsEmpty) {
  ExpertUse use{model::ModelConfig{}, /*pairs=*/true};
  EXPECT_TRUE(use.layers().empty());
}

std::vector<ExpertUse::Layer> loads(std::vector<std::int64_t> load_E) {
  ExpertUse::Layer layer;
  layer.load_E = std::move(load_E);
  return {layer};
}

TEST(Specialisation, IsZeroForTextsThatUseTheSameExperts) {
  // Shares count, not how long a text is.
  EXPECT_NEAR(eval::specialisation({loads({1, 2, 3, 4}), loads({10, 20, 30, 40})}).at(0), 0, 1e-12);
}

TEST(Specialisation, IsOneForTextsThatShareNoExpert) {
  EXPECT_NEAR(eval::specialisation({loads({5, 5, 0, 0}), loads({0, 0, 1, 9})}).at(0), 1, 1e-12);
  EXPECT_NEAR(eval::specialisation({loads({5, 0, 0}), loads({0, 1, 0}), loads({0, 0, 7})}).at(0), 1, 1e-12);
}

TEST(Specialisation, IsAsComputedByHandInBetween) {
  // Half of the second text goes to the first one's expert: H(3/4, 1/4) - (0 + log 2) / 2, over log 2.
  const double entropy = -(0.75 * std::log(0.75) + 0.25 * std::log(0.25));
  EXPECT_NEAR(eval::specialisation({loads({8, 0}), loads({3, 3})}).at(0), entropy / std::log(2) - 0.5, 1e-12);
}

TEST(Specialisation, NeedsTwoTexts) { EXPECT_TRUE(eval::specialisation({loads({1, 2})}).empty()); }

}  // namespace
