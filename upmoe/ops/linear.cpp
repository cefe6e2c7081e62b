#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/panel.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/reference.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {

Tensor linear(const Tensor& x_NI, const Tensor& weight_OI, const std::optional<Tensor>& bias_O) {
  if (!has_kernels(x_NI) || !has_kernels(weight_OI))
    return reference::linear(x_NI, weight_OI, bias_O.value_or(Tensor()));
  require(weight_OI.dim() == 2 && weight_OI.size(1) == x_NI.size(-1), "linear: {} inputs for a weight of {}",
          x_NI.size(-1), weight_OI.size(-1));
  std::vector<std::int64_t> shape = x_NI.sizes().vec();
  shape.back() = weight_OI.size(0);
  const Tensor x = for_products(x_NI.reshape({-1, weight_OI.size(1)})),
               out = at::empty({x.size(0), weight_OI.size(0)}, x_NI.options());
  const std::vector<Range> rows = cut(out.size(0), kTileRows),
                           columns = cut(out.size(1), kTileColumns, kPanelColumns);
  for_each_tile(static_cast<std::int64_t>(rows.size() * columns.size()), [&](std::int64_t i) {
    const Range row = rows[static_cast<std::size_t>(i) / columns.size()],
                column = columns[static_cast<std::size_t>(i) % columns.size()];
    product(x.narrow(0, row.begin, row.size), weight_OI.narrow(0, column.begin, column.size).t(),
            out.narrow(0, row.begin, row.size).narrow(1, column.begin, column.size));
  });
  const Tensor y = out.view(shape);
  return bias_O ? y + bias_O->to(y.scalar_type()) : y;
}

}  // namespace upmoe::ops::raw
