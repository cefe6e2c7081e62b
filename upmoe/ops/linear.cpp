#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/ops.h"
#include "upmoe/ops/reference.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops {

at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O) {
  const bool recorded = at::GradMode::is_enabled() && (x_NI.requires_grad() || weight_OI.requires_grad());
  const bool few = x_NI.scalar_type() == at::kBFloat16 && x_NI.numel() <= 4 * x_NI.size(-1);
  if (recorded || !has_kernels(x_NI) || !has_kernels(weight_OI) ||
      (x_NI.scalar_type() == weight_OI.scalar_type() && !few))
    return reference::linear(x_NI, weight_OI, bias_O);
  // Piece by piece, so that no converted copy of the weight is made, or for few rows none at all.
  require(weight_OI.dim() == 2 && weight_OI.size(1) == x_NI.size(-1), "linear: {} inputs for a weight of {}",
          x_NI.size(-1), weight_OI.size(-1));
  std::vector<std::int64_t> shape = x_NI.sizes().vec();
  shape.back() = weight_OI.size(0);
  const at::Tensor x = x_NI.reshape({-1, weight_OI.size(1)}),
                   out = at::empty({x.size(0), weight_OI.size(0)}, x.options());
  const std::vector<Range> columns = cut(out.size(1), kTileColumns);
  for_each_tile(static_cast<std::int64_t>(columns.size()), [&](std::int64_t i) {
    const auto [begin, size] = columns[static_cast<std::size_t>(i)];
    multiply(x, weight_OI.narrow(0, begin, size), out.narrow(1, begin, size));
  });
  const at::Tensor y = out.view(shape);
  return bias_O.defined() ? y + bias_O.to(y.scalar_type()) : y;
}

}  // namespace upmoe::ops
