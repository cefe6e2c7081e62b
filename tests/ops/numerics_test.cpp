// In float32, everything beside the products is as near to what doubles give as torch's own operations are,
// or a model would send tokens to other experts than torch does. Products: product_test.cpp.
#include <ATen/ops/scaled_dot_product_attention.h>
#include <fmt/format.h>

#include "tests/ops/tensors.h"
#include "upmoe/base/isa.h"
#include "upmoe/ops/reference.h"

namespace upmoe::ops {
namespace {

at::Tensor wide(const at::Tensor& x) { return x.to(at::kDouble); }

// Mean error of a number, as a share of it.
double mean_error(const at::Tensor& got, const at::Tensor& exact) {
  return ((wide(got) - exact) / exact).pow(2).mean().sqrt().item<double>();
}

// A tenth is left to chance.
void expect_as_near(const at::Tensor& got, const at::Tensor& of_torch, const at::Tensor& exact) {
  EXPECT_LE(mean_error(got, exact), 1.1 * mean_error(of_torch, exact));
}

// f() under every level that the kernels have.
template <class F>
void on_every_level(F f) {
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    SCOPED_TRACE(isa_name(isa));
    set_active_isa(isa);
    f();
  }
  set_active_isa(before);
}

TEST(Numerics, SwigluIsAsNearToThatOfDoublesAsTorchs) {
  for (const double size : {0.3, 1.0, 4.0}) {
    const at::Tensor gate = draw({100000}) * size, up = draw({100000});
    const at::Tensor of_torch = reference::swiglu(gate, up), exact = reference::swiglu(wide(gate), wide(up));
    on_every_level([&] { expect_as_near(swiglu(gate, up), of_torch, exact); });
  }
}

TEST(Numerics, RmsNormIsAsNearToThatOfDoublesAsTorchs) {
  for (const std::int64_t H : {64, 576, 4096, 8192}) {
    SCOPED_TRACE(H);
    const at::Tensor x = draw({200, H}), weight = draw({H});
    const at::Tensor of_torch = reference::rms_norm(x, weight, 1e-5),
                     exact = reference::rms_norm(wide(x), wide(weight), 1e-5);
    on_every_level([&] { expect_as_near(rms_norm(x, weight, 1e-5), of_torch, exact); });
  }
}

// A sum of weights that are positive and of values that are, so that no number is a small rest of large ones.
TEST(Numerics, AttentionIsAsNearToThatOfDoublesAsTorchs) {
  for (const std::int64_t T : {200, 1000}) {
    SCOPED_TRACE(T);
    const at::Tensor q = draw({1, T, 6, 64}), k = draw({1, T, 2, 64}), v = draw({1, T, 2, 64}).abs();
    const at::Tensor of_torch =
        at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {},
                                         /*dropout_p=*/0.0, /*is_causal=*/true, /*scale=*/std::nullopt,
                                         /*enable_gqa=*/true)
            .transpose(1, 2);
    const at::Tensor exact = reference::attention(wide(q), wide(k), wide(v), {});
    on_every_level([&] { expect_as_near(attention(q, k, v, {}), of_torch, exact); });
  }
}

}  // namespace
}  // namespace upmoe::ops
