#include "upmoe/eval/perplexity.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/data/token_files.h"
#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace {

using namespace upmoe;
using namespace upmoe::eval;
using upmoe::test::fails_with;

struct Windows {
  std::int64_t size;
  WindowOptions options;
};

Windows draw() {
  const auto context = *rc::gen::inRange<std::int64_t>(2, 12);
  return {.size = *rc::gen::inRange<std::int64_t>(0, 60),
          .options = {.context = context,
                      .stride = *rc::gen::inRange<std::int64_t>(0, context + 1),
                      .max_tokens = *rc::gen::inRange<std::int64_t>(0, 70)}};
}

RC_GTEST_PROP(Windows, ScoreEveryTokenOnceThatHasOneBeforeIt, ()) {
  const auto [size, options] = draw();
  const std::int64_t end = options.max_tokens == 0 ? size : std::min(size, options.max_tokens);
  const bool overlap = options.stride != 0 && options.stride < options.context;
  std::vector<int> scored(static_cast<std::size_t>(end));
  for (const Window& window : make_windows(size, options)) {
    RC_ASSERT(window.length >= 2 && window.length <= options.context);
    RC_ASSERT(window.first_scored >= 1 && window.first_scored < window.length);
    for (std::int64_t t = window.first_scored; t < window.length; ++t)
      ++scored.at(static_cast<std::size_t>(window.begin + t));
  }
  const auto context = static_cast<std::size_t>(options.context);
  for (std::size_t t = 0; t < scored.size(); ++t) {
    const bool is_first = overlap ? t == 0 : t % context == 0;  // of all windows that have it
    RC_ASSERT(scored[t] == (is_first ? 0 : 1));
  }
}

RC_GTEST_PROP(Windows, AreReadInBatchesAsOneByOne, ()) {
  const auto [size, options] = draw();
  RC_PRE(size > 0);
  const test::TempFolder folder;
  std::vector<std::uint16_t> ids(static_cast<std::size_t>(size));
  std::iota(ids.begin(), ids.end(), std::uint16_t{100});
  const TokenFile file(test::write_file(folder / "tokens.bin", test::bytes_of(ids)));
  const std::vector<Window> windows = make_windows(size, options);
  std::size_t next = 0;
  const auto batch_tokens = *rc::gen::inRange<std::int64_t>(1, 80);
  for_each_batch(file, windows, batch_tokens, at::kCPU, [&](const WindowBatch& batch) {
    RC_ASSERT(batch.first == next);
    const std::int64_t B = batch.token_BT.size(0), T = batch.token_BT.size(1);
    RC_ASSERT(B == 1 || B * T <= batch_tokens);
    for (std::int64_t b = 0; b < B; ++b, ++next) {
      const Window& window = windows.at(next);
      RC_ASSERT(window.length == T);
      for (std::int64_t t = 0; t < T; ++t) {
        const std::int64_t token = 100 + window.begin + t;
        RC_ASSERT(batch.token_BT[b][t].item<std::int64_t>() == token);
        const bool is_scored = t + 1 >= window.first_scored && t + 1 < T;
        RC_ASSERT(batch.target_BT[b][t].item<std::int64_t>() == (is_scored ? token + 1 : -1));
      }
    }
  });
  RC_ASSERT(next == windows.size());
}

TEST(Windows, RefuseAStrideThatSkipsTokens) {
  const auto make = [](WindowOptions options) { return [=] { make_windows(100, options); }; };
  EXPECT_TRUE(fails_with<UsageError>(make({.context = 8, .stride = 9}), {"9", "8"}));
  EXPECT_TRUE(fails_with<UsageError>(make({.context = 8, .stride = -1}), {"-1"}));
  EXPECT_TRUE(fails_with<UsageError>(make({.context = 1}), {"1", "at least 2"}));
  EXPECT_TRUE(fails_with<UsageError>(make({.context = 8, .max_tokens = -1}), {"-1"}));
}

TEST(NllSum, HasMeanAndStandardErrorOfItsWindows) {
  NllSum sum;
  sum.add(at::tensor({1.0F, 2.0F, 0.0F, 3.0F, 1.0F, 2.0F}).view({2, 3}),
          at::tensor(std::vector<std::int64_t>{5, 5, -1, 5, 5, 5}).view({2, 3}));
  EXPECT_EQ(sum.tokens(), 5);
  EXPECT_DOUBLE_EQ(sum.nll(), 9.0 / 5);
  EXPECT_DOUBLE_EQ(sum.perplexity(), std::exp(9.0 / 5));
  // Residuals 3 - 2 * 1.8 and 6 - 3 * 1.8, by hand.
  EXPECT_NEAR(*sum.standard_error(), std::sqrt(2.0 * (0.36 + 0.36)) / 5, 1e-12);
}

TEST(NllSum, HasNoStandardErrorOfOneWindow) {
  NllSum sum;
  sum.add(at::tensor({1.0F, 2.0F}).view({1, 2}), at::tensor(std::vector<std::int64_t>{5, 5}).view({1, 2}));
  EXPECT_EQ(sum.standard_error(), std::nullopt);
}

TEST(NllSum, IsTheSameForAnyCutIntoParts) {
  const at::Tensor nll_BT = at::tensor({1.0F, 2.5F, 3.0F, 0.25F, 2.0F, 4.0F}).view({3, 2}),
                   target_BT = at::tensor(std::vector<std::int64_t>{1, 1, 1, -1, 1, 1}).view({3, 2});
  NllSum whole, first, rest;
  whole.add(nll_BT, target_BT);
  first.add(nll_BT.narrow(0, 0, 1), target_BT.narrow(0, 0, 1));
  rest.add(nll_BT.narrow(0, 1, 2), target_BT.narrow(0, 1, 2));
  first.add(rest);
  EXPECT_EQ(first.nll(), whole.nll());
  EXPECT_EQ(first.tokens(), whole.tokens());
  EXPECT_EQ(first.standard_error(), whole.standard_error());
}

}  // namespace
