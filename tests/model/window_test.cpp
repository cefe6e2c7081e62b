// A sliding window is computed piece by piece: for many queries that is what each alone sees.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "tests/model/models.h"

namespace upmoe::model {
namespace {

class Window : public testing::TestWithParam<std::int64_t> {
 protected:
  Window() {
    const std::string extra = fmt::format(R"({{"sliding_window":{}}})", GetParam());
    model_ = load(test::make_tiny_model(folder_.path(), {.model_type = "mistral", .extra = extra}));
  }
  at::Tensor in_pieces(const at::Tensor& token_BT, std::int64_t piece) const {
    const std::int64_t T = token_BT.size(1);
    KvCache cache = make_cache(model_, token_BT.size(0), T);
    std::vector<at::Tensor> out;
    for (std::int64_t t = 0; t < T; t += piece)
      out.push_back(
          hidden_states(model_, {.token_BT = token_BT.narrow(1, t, std::min(piece, T - t))}, &cache));
    return at::cat(out, /*dim=*/1);
  }

  const at::NoGradGuard no_gradients_;
  test::TempFolder folder_;
  Model model_;
};

TEST_P(Window, GivesTheSameHoweverManyQueriesThereAreAtOnce) {
  const at::Tensor token_BT = test::some_tokens(2, 1300), alone = in_pieces(token_BT, 1);
  for (const std::int64_t piece : {1300, 700, 37})
    EXPECT_LE(test::relative_difference(in_pieces(token_BT, piece), alone), 1e-5) << piece;
  const Input one_document{.token_BT = token_BT, .position_BT = {}, .document_BT = at::zeros_like(token_BT)};
  EXPECT_LE(test::relative_difference(hidden_states(model_, one_document), alone), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(All, Window, testing::Values(1, 8, 600, 1299, 1300));

}  // namespace
}  // namespace upmoe::model
