// Models and their routers: what a model tells them, and what they have of their own.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "tests/fails_with.h"
#include "tests/model/models.h"
#include "upmoe/base/error.h"

namespace upmoe::model {
namespace {

class Routed : public testing::Test {
 protected:
  Model load_with(const std::string& router) const {
    LoadOptions options;
    options.router = parse_named_values(router);
    return load(place_, options);
  }

  const at::NoGradGuard no_gradients_;
  test::TempFolder folder_;
  std::filesystem::path place_ = test::make_tiny_model(folder_.path(), {}, /*experts=*/4);
  at::Tensor token_BT_ = test::some_tokens(4, 10);
};

TEST_F(Routed, TheSameDrawsAreMadeInWhateverMicroBatchASequenceIs) {
  const Model model = load_with("gshard,noise=gaussian,noise-for=both,jitter=0.1");
  const Draws draws{.training = true, .seed = 3, .step = 7};
  const at::Tensor whole = hidden_states(model, {.token_BT = token_BT_, .draws = draws});
  std::vector<at::Tensor> halves;
  for (const std::int64_t first : {0, 2}) {
    Input input{.token_BT = token_BT_.narrow(0, first, 2), .draws = draws};
    input.draws.first_sequence = first;
    halves.push_back(hidden_states(model, input));
  }
  EXPECT_TRUE(at::allclose(whole, at::cat(halves), 1e-4, 1e-5));
  for (const Draws& other : {Draws{.training = true, .seed = 4, .step = 7},
                             Draws{.training = true, .seed = 3, .step = 8}, Draws{}})
    EXPECT_FALSE(
        at::allclose(whole, hidden_states(model, {.token_BT = token_BT_, .draws = other}), 1e-4, 1e-5));
}

TEST_F(Routed, AChoiceIsReplayed) {
  const Model model = load_with("softmax_topk");
  std::vector<at::Tensor> chosen;
  const at::Tensor first = hidden_states(model, {.token_BT = token_BT_}, nullptr, [&](const FfnSeen& seen) {
    chosen.push_back(seen.routing->chosen_TM);
  });
  EXPECT_TRUE(at::equal(first, hidden_states(model, {.token_BT = token_BT_, .replay_TM = chosen})));
  for (at::Tensor& of_layer : chosen) of_layer = (of_layer + 1).remainder(4);
  std::size_t l = 0;
  const at::Tensor other = hidden_states(
      model, {.token_BT = token_BT_, .replay_TM = chosen}, nullptr,
      [&](const FfnSeen& seen) { EXPECT_TRUE(at::equal(seen.routing->chosen_TM, chosen.at(l++))); });
  EXPECT_FALSE(at::allclose(first, other));
}

TEST_F(Routed, PaddingIsToldToTheRouter) {
  const Model model = load_with("softmax_topk");
  const at::Tensor document_BT = at::zeros_like(token_BT_);
  document_BT.narrow(1, 6, 4).fill_(-1);
  hidden_states(
      model, {.token_BT = token_BT_, .document_BT = document_BT}, nullptr, [&](const FfnSeen& seen) {
        EXPECT_EQ(seen.routing->load_X.sum().item<std::int64_t>(), 4 * 6 * 2);  // sequences, real tokens, k
      });
}

TEST_F(Routed, TheErrorOfARouterNamesModelAndLayer) {
  Model model = load_with("softmax_topk");
  at::Tensor& router = std::get<Moe>(model.layers[1].ffn).router_EH;
  router = at::zeros_like(router) + NAN;
  EXPECT_TRUE(test::fails_with([&] { hidden_states(model, {.token_BT = token_BT_}); },
                               {place_.string(), "layer 1", "router's logits are not finite"}));
}

TEST_F(Routed, StatesOfRoutersHaveNamesAndArePutBack) {
  Model model = load_with("bias_topk"), other = load_with("bias_topk");
  const auto states = router_state(model), others = router_state(other);
  ASSERT_EQ(states.size(), model.layers.size());
  EXPECT_EQ(states[1].name, "model.layers.1.router.bias");
  const auto run = [&](const Model& it) { return hidden_states(it, {.token_BT = token_BT_}); };
  const at::Tensor before = run(model);
  for (const NamedWeight& state : states) state.value->select(0, 3).fill_(10);
  const at::Tensor after = run(model);
  EXPECT_FALSE(at::equal(before, after));
  for (std::size_t i = 0; i < states.size(); ++i) others[i].value->copy_(*states[i].value);
  EXPECT_TRUE(at::equal(run(other), after));
}

}  // namespace
}  // namespace upmoe::model
