#include <ATen/Parallel.h>
#include <ATen/ops/tril.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/fails_with.h"
#include "tests/ops/tensors.h"
#include "upmoe/ops/reference.h"

namespace upmoe::ops {
namespace {

void expect_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask) {
  expect_near(attention(q, k, v, mask), reference::attention(q, k, v, mask), 3 * tolerance(q.scalar_type()));
}

TEST(Attention, GivesWhatTheReferenceGives) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble})
    for (const std::int64_t T : {1, 2, 65, 300}) {
      SCOPED_TRACE(fmt::format("{} positions of {}", T, c10::toString(dtype)));
      expect_reference(draw({2, T, 6, 16}, dtype), draw({2, T, 3, 16}, dtype), draw({2, T, 3, 16}, dtype),
                       {});
      expect_reference(draw({1, T, 4, 64}, dtype), draw({1, T, 4, 64}, dtype), draw({1, T, 4, 64}, dtype),
                       {});
      expect_reference(draw({2, 1, 6, 16}, dtype), draw({2, T, 2, 16}, dtype), draw({2, T, 2, 16}, dtype),
                       {});
      const at::Tensor mask = at::ones({1, 1, 5, T + 5}, at::TensorOptions(at::kBool)).tril(T);
      expect_reference(draw({2, 5, 6, 16}, dtype), draw({2, T + 5, 2, 16}, dtype),
                       draw({2, T + 5, 2, 16}, dtype), mask);
    }
}

TEST(Attention, GivesWhatTheReferenceGivesForManyHeadsThatShareOne) {
  expect_reference(draw({1, 140, 80, 8}), draw({1, 140, 2, 8}), draw({1, 140, 2, 8}), {});
}

TEST(Attention, GivesTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor q = draw({2, 200, 6, 16}, dtype), k = draw({2, 200, 2, 16}, dtype),
                     v = draw({2, 200, 2, 16}, dtype);
    const at::Tensor first = attention(q, k, v, {});
    for (const int n : {1, 2, 3}) {
      at::set_num_threads(n);
      EXPECT_TRUE(at::equal(first, attention(q, k, v, {}))) << n;
    }
    at::set_num_threads(threads);
  }
}

TEST(Attention, HasTheGradientsOfTheReference) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    std::vector<at::Tensor> leaves = {draw({2, 70, 6, 16}, dtype), draw({2, 70, 3, 16}, dtype),
                                      draw({2, 70, 3, 16}, dtype)};
    for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
    const at::Tensor y = attention(leaves[0], leaves[1], leaves[2], {}),
                     z = reference::attention(leaves[0], leaves[1], leaves[2], {}),
                     weight = draw(y.sizes(), dtype);
    const auto got = torch::autograd::grad({y}, leaves, {weight}),
               expected = torch::autograd::grad({z}, leaves, {weight});
    for (std::size_t i = 0; i < 3; ++i) expect_near(got[i], expected[i], 5 * tolerance(dtype));
  }
}

TEST(Attention, AsksForAMaskWhereNeitherRuleFits) {
  EXPECT_TRUE(test::fails_with(
      [] {
        attention(draw({1, 2, 2, 8}), draw({1, 5, 2, 8}), draw({1, 5, 2, 8}), {});
      },
      {"2 positions that see 5 need a mask"}));
}

}  // namespace
}  // namespace upmoe::ops
