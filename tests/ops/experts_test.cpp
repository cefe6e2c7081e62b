#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/fails_with.h"
#include "tests/ops/tensors.h"
#include "upmoe/ops/reference.h"

namespace upmoe::ops {
namespace {

at::Tensor fast(const Routed& r) { return experts(r.x_NH, r.token_P, r.expert_P, r.weight_P, r.weights); }
at::Tensor plain(const Routed& r) {
  return reference::experts(r.x_NH, r.token_P, r.expert_P, r.weight_P, r.weights);
}

at::Tensor numbers(std::vector<std::int64_t> all) { return at::tensor(all, at::TensorOptions(at::kLong)); }

TEST(Experts, GiveWhatTheReferenceGivesInEveryDtype) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble})
    for (const at::ScalarType weight_dtype : {at::kFloat, at::kBFloat16, at::kHalf})
      for (const std::int64_t tokens : {0, 1, 3, 50, 700}) {
        SCOPED_TRACE(fmt::format("{} tokens of {}, weights of {}", tokens, c10::toString(dtype),
                                 c10::toString(weight_dtype)));
        const Routed r = routed({.tokens = tokens, .dtype = dtype, .weight_dtype = weight_dtype});
        expect_near(fast(r), plain(r), tolerance(dtype));
      }
}

TEST(Experts, GiveWhatTheReferenceGivesForOddSizes) {
  for (const auto& [hidden, neurons] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {7, 300}, {513, 31}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(fmt::format("{} x {} {}", hidden, neurons, c10::toString(dtype)));
      const Routed r =
          routed({.hidden = hidden, .neurons = neurons, .dtype = dtype, .weight_dtype = at::kBFloat16});
      expect_near(fast(r), plain(r), tolerance(dtype));
    }
}

TEST(Experts, GiveWhatTheReferenceGivesForAnyShareOfTheTokens) {
  const RoutedShape shape{.tokens = 1100, .per_token = 1};
  std::vector<std::int64_t> mostly_one(1100, 3);
  mostly_one[17] = 0;
  mostly_one[1099] = 4;
  for (const std::vector<std::int64_t>& choice : {mostly_one, std::vector<std::int64_t>(1100, 2)}) {
    const Routed r = routed(shape, numbers(choice));
    expect_near(fast(r), plain(r), tolerance(at::kFloat));
  }
}

TEST(Experts, EachTokenMayHaveEveryExpertOrNone) {
  Routed r = routed({.tokens = 4, .experts = 3, .per_token = 3});
  r.expert_P = numbers({0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 2, 0});
  expect_near(fast(r), plain(r), tolerance(at::kFloat));
  r.token_P = numbers({1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3});
  const at::Tensor y = fast(r);
  expect_near(y, plain(r), tolerance(at::kFloat));
  EXPECT_TRUE(at::equal(y[0], at::zeros_like(y[0])));
}

TEST(Experts, WeightsMayBeViewsOfALargerTensor) {
  Routed r = routed({});
  const at::Tensor gate_up = draw({160, 48}), wide = draw({48, 200});
  r.weights.gate_FH[1] = gate_up.narrow(0, 0, 80);
  r.weights.up_FH[1] = gate_up.narrow(0, 80, 80);
  r.weights.down_HF[1] = wide.narrow(1, 60, 80);
  r.weights.down_HF[2] = draw({80, 48}).t();
  expect_near(fast(r), plain(r), tolerance(at::kFloat));
}

TEST(Experts, GiveTheSameBitsEachTimeAndForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const std::int64_t tokens : {1, 5, 700}) {
      const Routed r = routed(
          {.tokens = tokens, .hidden = 320, .neurons = 600, .dtype = dtype, .weight_dtype = at::kBFloat16});
      const at::Tensor first = fast(r);
      EXPECT_TRUE(at::equal(first, fast(r)));
      for (const int n : {1, 2, 3}) {
        at::set_num_threads(n);
        EXPECT_TRUE(at::equal(first, fast(r))) << n << " threads, " << tokens << " tokens";
      }
      at::set_num_threads(threads);
    }
}

TEST(Experts, RefusePairsThatPointNowhereOrAreNotInOrder) {
  Routed r = routed({.tokens = 2, .experts = 3, .per_token = 1});
  r.expert_P = numbers({0, 3});
  EXPECT_TRUE(test::fails_with([&] { fast(r); },
                               {"pair 1 is token 1 and expert 3; there are 2 tokens and 3 experts"}));
  r.expert_P = numbers({0, 2});
  r.token_P = numbers({1, 0});
  EXPECT_TRUE(test::fails_with([&] { fast(r); }, {"not sorted by token: pair 1"}));
}

// Every gradient of a weighted sum of the result.
std::vector<at::Tensor> gradients(Routed r, at::Tensor (*f)(const Routed&), const at::Tensor& weight) {
  std::vector<at::Tensor> leaves = {r.x_NH, r.weight_P};
  for (const auto* all : {&r.weights.gate_FH, &r.weights.up_FH, &r.weights.down_HF})
    leaves.insert(leaves.end(), all->begin(), all->end());
  for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
  const auto out =
      torch::autograd::grad({f(r)}, leaves, {weight}, /*retain_graph=*/false, /*create_graph=*/false,
                            /*allow_unused=*/true);
  for (at::Tensor& leaf : leaves) leaf.requires_grad_(false);
  return out;
}

Routed in_double(Routed r) {
  for (at::Tensor* x : {&r.x_NH, &r.weight_P}) *x = x->to(at::kDouble);
  for (auto* all : {&r.weights.gate_FH, &r.weights.up_FH, &r.weights.down_HF})
    for (at::Tensor& w : *all) w = w.to(at::kDouble);
  return r;
}

// In float64: in float32 the reference's own sums may be further off than ours.
TEST(Experts, HaveTheGradientsOfTheReference) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat})
    for (const std::int64_t tokens : {1, 60}) {
      Routed r = routed({.tokens = tokens, .dtype = dtype, .weight_dtype = dtype});
      r.expert_P.masked_fill_(r.expert_P == 2, 0);
      const at::Tensor weight = draw(r.x_NH.sizes(), dtype);
      const auto got = gradients(r, fast, weight),
                 expected = gradients(in_double(r), plain, weight.to(at::kDouble));
      for (std::size_t i = 0; i < got.size(); ++i) {
        SCOPED_TRACE(fmt::format("{} tokens of {}, leaf {}", tokens, c10::toString(dtype), i));
        EXPECT_EQ(got[i].scalar_type(), dtype);
        const at::Tensor exact = got[i].to(at::kDouble);
        expect_near(exact, expected[i].defined() ? expected[i] : at::zeros_like(exact), 5 * tolerance(dtype));
      }
    }
}

TEST(Experts, TakeAGradientThatIsOneNumberForAll) {
  const Routed r = routed({});
  const at::Tensor one = at::full({1, 1}, 0.5, at::TensorOptions(at::kFloat)).expand(r.x_NH.sizes());
  const auto got = gradients(r, fast, one), expected = gradients(r, fast, one.contiguous());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::equal(got[i], expected[i])) << i;
}

TEST(Experts, HaveTheGradientsOfTheReferenceInBfloat16ToItsPrecision) {
  const Routed r = routed({.dtype = at::kBFloat16, .weight_dtype = at::kBFloat16});
  const at::Tensor weight = draw(r.x_NH.sizes(), at::kBFloat16);
  const auto got = gradients(r, fast, weight), expected = gradients(r, plain, weight);
  for (std::size_t i = 0; i < got.size(); ++i)
    if (expected[i].defined()) expect_near(got[i], expected[i], 2 * tolerance(at::kBFloat16));
}

}  // namespace
}  // namespace upmoe::ops
