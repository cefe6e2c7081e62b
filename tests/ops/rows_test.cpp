#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "tests/fails_with.h"
#include "tests/ops/tensors.h"
#include "upmoe/base/isa.h"
#include "upmoe/ops/reference.h"

// The operations that take a row at a time: rms_norm, swiglu, rotate, linear.
namespace upmoe::ops {
namespace {

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble};

template <class F>
void for_each_isa(F f) {
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    SCOPED_TRACE(std::string(isa_name(isa)));
    set_active_isa(isa);
    f();
  }
  set_active_isa(before);
}

struct Table {
  at::Tensor cos, sin;
};
Table table(std::int64_t B, std::int64_t T, std::int64_t d) {
  const at::Tensor angle = draw({B, T, d});
  return {angle.cos(), angle.sin()};
}

TEST(Rows, GiveWhatTheReferenceGivesOnEveryInstructionSet) {
  for_each_isa([] {
    for (const at::ScalarType dtype : kDtypes)
      for (const std::int64_t size : {1, 3, 16, 37, 576}) {
        SCOPED_TRACE(fmt::format("{} of {}", size, c10::toString(dtype)));
        const at::Tensor x = draw({2, 5, size}, dtype), y = 4 * draw({2, 5, size}, dtype), w = draw({size});
        expect_near(rms_norm(x, w, 1e-5), reference::rms_norm(x, w, 1e-5), tolerance(dtype) / 2);
        expect_near(swiglu(y, x), reference::swiglu(y, x), tolerance(dtype) / 2);
        const at::Tensor heads = draw({2, 5, 3, 2 * size}, dtype);
        const auto [cos, sin] = table(2, 5, size);
        expect_near(rotate(heads, cos, sin), reference::rotate(heads, cos, sin), tolerance(dtype) / 2);
      }
  });
}

TEST(Rows, RoundInBfloat16WhereTransformersDoes) {
  const at::Tensor x = draw({40, 64}, at::kBFloat16), w = draw({64}, at::kBFloat16);
  const at::Tensor heads = draw({1, 5, 3, 64}, at::kBFloat16);
  const auto [cos, sin] = table(1, 5, 32);
  EXPECT_TRUE(at::equal(rms_norm(x, w, 1e-5), reference::rms_norm(x, w, 1e-5)));
  EXPECT_TRUE(at::equal(rotate(heads, cos, sin), reference::rotate(heads, cos, sin)));
}

TEST(Rows, OneTableOfRotationsServesEverySequence) {
  const at::Tensor heads = draw({3, 4, 2, 6});
  const auto [cos, sin] = table(1, 4, 3);
  expect_near(rotate(heads, cos, sin), reference::rotate(heads, cos, sin), tolerance(at::kFloat));
}

TEST(Rows, SwigluIsRightFarFromZero) {
  const float infinity = std::numeric_limits<float>::infinity();
  const at::Tensor gate = at::tensor(
                       {-infinity, -1e30F, -104.0F, -88.5F, -20.0F, 0.0F, 20.0F, 88.5F, 1e30F, infinity}),
                   up = at::ones({10});
  const at::Tensor got = swiglu(gate, up);
  expect_near(got.slice(0, 2, 8), reference::swiglu(gate, up).slice(0, 2, 8), tolerance(at::kFloat));
  EXPECT_NEAR(got[1].item<float>(), 0, 1e-7);
  EXPECT_EQ(got[8].item<float>(), 1e30F);
  EXPECT_EQ(got[9].item<float>(), infinity);
  EXPECT_TRUE(
      swiglu(at::full({1}, std::numeric_limits<float>::quiet_NaN()), at::ones({1})).isnan().item<bool>());
}

TEST(Rows, LinearBringsTheWeightToXOrReadsItWhereItLies) {
  for_each_isa([] {
    for (const at::ScalarType dtype : kDtypes)
      for (const at::ScalarType weight_dtype : kDtypes)
        for (const std::int64_t rows : {0, 1, 4, 17, 600}) {
          SCOPED_TRACE(fmt::format("{} rows of {}, weights of {}", rows, c10::toString(dtype),
                                   c10::toString(weight_dtype)));
          const at::Tensor x = draw({rows, 75}, dtype), w = draw({530, 75}, weight_dtype),
                           b = draw({530}, weight_dtype);
          expect_near(linear(x, w, b), reference::linear(x, w, b), tolerance(dtype));
        }
  });
}

TEST(Rows, LinearKeepsTheLeadingDimensions) {
  EXPECT_EQ(linear(draw({2, 3, 8}), draw({5, 8}, at::kBFloat16)).sizes(), (at::IntArrayRef{2, 3, 5}));
}

template <class F, class G>
void expect_same_gradients(F f, G g, std::vector<at::Tensor> leaves) {
  for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
  const at::Tensor y = f(), z = g(), weight = draw(y.sizes(), y.scalar_type());
  const auto got = torch::autograd::grad({y}, leaves, {weight}),
             expected = torch::autograd::grad({z}, leaves, {weight});
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    SCOPED_TRACE(fmt::format("leaf {} of {}", i, c10::toString(y.scalar_type())));
    expect_near(got[i], expected[i], 5 * tolerance(y.scalar_type()));
  }
}

TEST(Rows, HaveTheGradientsOfTheReference) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const at::Tensor x = draw({2, 5, 37}, dtype), y = draw({2, 5, 37}, dtype), w = draw({37}, dtype);
    expect_same_gradients([&] { return rms_norm(x, w, 1e-5); },
                          [&] { return reference::rms_norm(x, w, 1e-5); }, {x, w});
    expect_same_gradients([&] { return swiglu(x, y); }, [&] { return reference::swiglu(x, y); }, {x, y});
    const at::Tensor heads = draw({2, 5, 3, 6}, dtype);
    const auto t = table(2, 5, 3);
    expect_same_gradients([&] { return rotate(heads, t.cos, t.sin); },
                          [&] { return reference::rotate(heads, t.cos, t.sin); }, {heads});
  }
}

TEST(Rows, RefuseShapesThatDoNotFit) {
  EXPECT_TRUE(test::fails_with([] { rms_norm(draw({2, 4}), draw({5}), 1e-5); }, {"5 weights for rows of 4"}));
  EXPECT_TRUE(test::fails_with([] { swiglu(draw({2, 4}), draw({2, 5})); }, {"not alike"}));
  EXPECT_TRUE(test::fails_with(
      [] {
        rotate(draw({1, 2, 1, 6}), draw({1, 2, 2}), draw({1, 2, 2}));
      },
      {"do not fit together"}));
}

}  // namespace
}  // namespace upmoe::ops
