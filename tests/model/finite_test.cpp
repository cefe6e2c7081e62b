// A weight that is not finite never gives plain numbers that differ from those of the clean model: it is an
// error, or the result is not finite, or the weight had no influence.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/fails_with.h"
#include "tests/model/models.h"
#include "upmoe/base/error.h"

namespace upmoe::model {
namespace {

class NotFinite : public testing::TestWithParam<std::int64_t> {  // experts
 protected:
  NotFinite() : place_(test::make_tiny_model(folder_.path(), {}, GetParam())), model_(load(place_)) {
    const at::Tensor token_BT = test::some_tokens(1, kLongest);
    for (const std::int64_t T : {std::int64_t{1}, std::int64_t{5}, kLongest})
      clean_.push_back(loss(token_BT.narrow(1, 0, T)));
  }

  at::Tensor loss(const at::Tensor& token_BT) const {
    const at::Tensor hidden_NH = hidden_states(model_, {.token_BT = token_BT}).flatten(0, 1);
    return ops::token_nll(hidden_NH, model_.head_VH, token_BT.flatten().roll(1));
  }
  // Nothing but the same bits may look right.
  void expect_never_looks_right(const std::string& what) const {
    const at::Tensor token_BT = test::some_tokens(1, kLongest);
    std::size_t i = 0;
    for (const std::int64_t T : {std::int64_t{1}, std::int64_t{5}, kLongest}) {
      const at::Tensor& clean = clean_[i++];
      try {
        const at::Tensor nll = loss(token_BT.narrow(1, 0, T));
        EXPECT_TRUE(!nll.isfinite().all().item<bool>() || at::equal(nll, clean))
            << what << ", " << T << " tokens";
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("not finite"), std::string::npos) << error.what();
      }
    }
  }

  static constexpr std::int64_t kLongest = 140;  // which our own attention does
  const at::NoGradGuard no_gradients_;
  test::TempFolder folder_;
  std::filesystem::path place_;
  Model model_;
  std::vector<at::Tensor> clean_;
};

TEST_P(NotFinite, WeightsNeverLookRight) {
  for (const auto& [name, value] : named_weights(model_))
    for (const double bad : std::vector<double>{NAN, INFINITY, -INFINITY}) {
      const at::Tensor before = *value;
      *value = before.clone();
      value->view({-1})[value->numel() / 3].fill_(bad);
      expect_never_looks_right(fmt::format("{} in {}", bad, name));
      *value = before;
    }
}

// Without an error, so that a trainer can skip the step: with gradients and without.
TEST_P(NotFinite, WeightsMakeTheLossOfTrainingNotFinite) {
  for (const bool gradients : {false, true})
    for (const auto& [name, value] : named_weights(model_)) {
      const at::AutoGradMode mode(gradients);
      const at::Tensor before = *value, token_BT = test::some_tokens(1, 5);
      *value = at::full_like(before, INFINITY).set_requires_grad(gradients);
      const Input input{.token_BT = token_BT, .draws = {.training = true}};
      const at::Tensor nll_N = ops::token_nll(hidden_states(model_, input).flatten(0, 1), model_.head_VH,
                                              token_BT.flatten().roll(1));
      EXPECT_FALSE(nll_N.sum().isfinite().item<bool>() && name.find("experts.") == std::string::npos) << name;
      *value = before;
    }
}

TEST_P(NotFinite, QueriesAreAnErrorForFewKeys) {
  at::Tensor& q = model_.layers[1].attention.q.weight_OI;
  q = q.clone();
  q[3][4] = NAN;
  EXPECT_TRUE(test::fails_with([&] { loss(test::some_tokens(1, 2)); },
                               {"layer 1", "queries of attention are not finite"}));
}

TEST_P(NotFinite, RotationsAreAnError) {
  model_.config.llama.rope.theta = 1e-308;
  EXPECT_TRUE(test::fails_with([&] { loss(test::some_tokens(1, 2)); }, {"rope", "not finite", "1e-308"}));
}

INSTANTIATE_TEST_SUITE_P(DenseAndMoe, NotFinite, testing::Values(0, 4),
                         [](const auto& each) { return each.param == 0 ? "dense" : "experts"; });

}  // namespace
}  // namespace upmoe::model
