#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "tests/fails_with.h"
#include "tests/ops/tensors.h"
#include "upmoe/ops/reference.h"

namespace upmoe::ops {
namespace {

at::Tensor targets(std::int64_t tokens, std::int64_t vocabulary) {
  at::Tensor out = at::randint(vocabulary, {tokens}, at::TensorOptions(at::kLong));
  if (tokens > 3) out[2] = -100;
  return out;
}

TEST(TokenNll, GivesWhatTheReferenceGives) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble})
    for (const at::ScalarType head_dtype : {at::kFloat, at::kBFloat16})
      for (const auto& [tokens, vocabulary] :
           std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 9}, {1, 1}, {7, 300}, {700, 1031}}) {
        SCOPED_TRACE(fmt::format("{} tokens of {}, {} words of {}", tokens, c10::toString(dtype), vocabulary,
                                 c10::toString(head_dtype)));
        const at::Tensor hidden = draw({tokens, 24}, dtype), head = draw({vocabulary, 24}, head_dtype),
                         target = targets(tokens, vocabulary);
        expect_near(token_nll(hidden, head, target), reference::token_nll(hidden, head, target),
                    tolerance(dtype));
      }
}

TEST(TokenNll, IsRightForLogitsFarApart) {
  const at::Tensor hidden = 100 * draw({40, 24}), head = draw({600, 24}), target = targets(40, 600);
  expect_near(token_nll(hidden, head, target), reference::token_nll(hidden, head, target),
              tolerance(at::kFloat));
}

TEST(TokenNll, GivesTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  const at::Tensor hidden = draw({600, 64}), head = draw({1031, 64}, at::kBFloat16),
                   target = targets(600, 1031);
  const at::Tensor first = token_nll(hidden, head, target);
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    EXPECT_TRUE(at::equal(first, token_nll(hidden, head, target))) << n;
  }
  at::set_num_threads(threads);
}

TEST(TokenNll, HasTheGradientsOfTheReference) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    at::Tensor hidden = draw({50, 24}, dtype).set_requires_grad(true),
               head = draw({300, 24}, dtype).set_requires_grad(true);
    const at::Tensor target = targets(50, 300);
    const at::Tensor weight = draw({50}, dtype == at::kDouble ? dtype : at::kFloat);
    const auto got = torch::autograd::grad({token_nll(hidden, head, target)}, {hidden, head}, {weight});
    const auto expected =
        torch::autograd::grad({reference::token_nll(hidden, head, target)}, {hidden, head}, {weight});
    for (std::size_t i = 0; i < 2; ++i) expect_near(got[i], expected[i], 5 * tolerance(dtype));
  }
}

// Of weights that are infinite, or so large that a product is, for a word that is no target.
TEST(TokenNll, IsNotFiniteWhereALogitIsNot) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble})
    for (const double bad : std::vector<double>{-INFINITY, INFINITY, NAN, -3e38}) {
      SCOPED_TRACE(fmt::format("{} in {}", bad, c10::toString(dtype)));
      if (std::isfinite(bad) && dtype == at::kDouble) continue;
      const at::Tensor hidden = 10 * (draw({9, 24}, dtype).abs() + 1), head = draw({300, 24}, dtype).clone(),
                       target = targets(9, 100);
      head[200][5] = bad;
      const at::Tensor nll = token_nll(hidden, head, target);
      EXPECT_TRUE(at::equal(nll.isfinite(), target < 0)) << nll;
    }
}

// The gradients of the second half take back those of the first, token by token and bit by bit. Chunks of
// 128 tokens; rounded to bfloat16 one by one, their sums would leave some thousandths of one.
TEST(TokenNll, SumsTheGradientOfTheHeadInFloat32) {
  constexpr std::int64_t kTokens = 520, kVocabulary = 65536;
  const at::Tensor order = at::arange(kTokens, at::kLong).flip(0);
  const at::Tensor half = draw({kTokens, 16}, at::kBFloat16).abs(),
                   head = draw({kVocabulary, 16}, at::kBFloat16),
                   target = at::randint(100, {kTokens}, at::TensorOptions(at::kLong));
  const auto gradient = [&](const at::Tensor& hidden, const at::Tensor& to, const at::Tensor& weight) {
    at::Tensor leaf = head.clone().set_requires_grad(true);
    return torch::autograd::grad({token_nll(hidden, leaf, to)}, {leaf}, {weight}).at(0).to(at::kFloat);
  };
  const at::Tensor one = at::ones({kTokens});
  const at::Tensor all = gradient(at::cat({half, half.index_select(0, order)}),
                                  at::cat({target, target.index_select(0, order)}), at::cat({one, -one}));
  const auto largest = [](const at::Tensor& x) { return x.abs().max().item<double>(); };
  EXPECT_LE(largest(all), 1e-5 * largest(gradient(half, target, one)));
}

TEST(TokenNll, RefusesATargetBeyondTheVocabulary) {
  EXPECT_TRUE(test::fails_with(
      [] {
        token_nll(draw({1, 4}), draw({9, 4}), at::full({1}, 9, at::TensorOptions(at::kLong)));
      },
      {"target 9 of a vocabulary of 9"}));
}

}  // namespace
}  // namespace upmoe::ops
