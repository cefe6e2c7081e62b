// Documents in one row know nothing of each other, whatever the positions; padding disturbs nobody.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "tests/fails_with.h"
#include "tests/model/models.h"

namespace upmoe::model {
namespace {

constexpr double kTolerance = 1e-5;  // as in cache_test.cpp

class Documents : public testing::TestWithParam<std::int64_t> {  // experts
 protected:
  Documents() { model_ = load(test::make_tiny_model(folder_.path(), {}, GetParam())); }
  at::Tensor all_logits(const Input& input) const { return logits(model_, hidden_states(model_, input)); }

  const at::NoGradGuard no_gradients_;
  test::TempFolder folder_;
  Model model_;
};

TEST_P(Documents, AreComputedAsIfEachWereAlone) {
  const std::vector<std::int64_t> lengths = {1, 9, 20};
  const at::Tensor token_BT = test::some_tokens(2, 30);
  std::vector<at::Tensor> alone, position, document;
  std::int64_t begin = 0;
  for (const std::int64_t length : lengths) {
    alone.push_back(all_logits({.token_BT = token_BT.narrow(1, begin, length)}));
    position.push_back(at::arange(length, at::kLong));
    document.push_back(at::full({length}, begin, at::kLong));
    begin += length;
  }
  const Input together{.token_BT = token_BT,
                       .position_BT = at::cat(position).unsqueeze(0),
                       .document_BT = at::cat(document).expand({2, -1})};
  EXPECT_LE(test::relative_difference(all_logits(together), at::cat(alone, /*dim=*/1)), kTolerance);
}

TEST_P(Documents, PaddingOnEitherSideDisturbsNobody) {
  const at::Tensor token_BT = test::some_tokens(2, 20), wanted = all_logits({.token_BT = token_BT});
  const at::Tensor padding = at::full({2, 5}, 3, at::kLong), valid = at::full({2, 20}, 0, at::kLong);
  const Input padded{.token_BT = at::cat({padding, token_BT, padding}, 1),
                     .position_BT = at::arange(-5, 25, at::kLong).clamp_min(0).unsqueeze(0),
                     .document_BT = at::cat({padding * 0 - 1, valid, padding * 0 - 1}, 1)};
  EXPECT_LE(test::relative_difference(all_logits(padded).narrow(1, 5, 20), wanted), kTolerance);
}

TEST_P(Documents, CannotBeToldApartInACache) {
  KvCache cache = make_cache(model_, 2, 20);
  const at::Tensor token_BT = test::some_tokens(2, 20);
  EXPECT_TRUE(test::fails_with(
      [&] { hidden_states(model_, {.token_BT = token_BT, .document_BT = token_BT * 0}, &cache); },
      {"documents", "cache"}));
}

TEST_P(Documents, ATokenOutsideOfTheVocabularyIsAnError) {
  for (const std::int64_t bad : {-1, 64}) {
    const at::Tensor token_BT = test::some_tokens(1, 4);
    token_BT[0][2] = bad;
    EXPECT_TRUE(test::fails_with([&] { hidden_states(model_, {.token_BT = token_BT}); },
                                 {fmt::format("token {}", bad), "64"}));
  }
}

INSTANTIATE_TEST_SUITE_P(DenseAndMoe, Documents, testing::Values(0, 4),
                         [](const auto& each) { return each.param == 0 ? "dense" : "experts"; });

}  // namespace
}  // namespace upmoe::model
