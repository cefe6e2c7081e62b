#include <ATen/ops/empty.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/reference.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {

Tensor rotate(const Tensor& x_BTQD, const Tensor& cos_BTd, const Tensor& sin_BTd) {
  require(x_BTQD.dim() == 4 && cos_BTd.dim() == 3 && x_BTQD.size(3) == 2 * cos_BTd.size(2) &&
              x_BTQD.size(1) == cos_BTd.size(1) && cos_BTd.sizes() == sin_BTd.sizes() &&
              (cos_BTd.size(0) == 1 || cos_BTd.size(0) == x_BTQD.size(0)),
          "rotate: x and the table of rotations do not fit together");
  if (!has_kernels(x_BTQD) || cos_BTd.scalar_type() != at::kFloat || sin_BTd.scalar_type() != at::kFloat)
    return reference::rotate(x_BTQD, cos_BTd, sin_BTd);
  const std::int64_t T = x_BTQD.size(1), Q = x_BTQD.size(2), D = x_BTQD.size(3), half = D / 2;
  const Tensor x = x_BTQD.contiguous(), out = at::empty(x.sizes(), x.options());
  const Tensor cos = cos_BTd.contiguous(), sin = sin_BTd.contiguous();
  const std::int64_t tables = cos.size(0) * T;
  with_kernels(x.scalar_type(), [&]<class N>(const KernelsOf<N>& k, N) {
    for_each_row(x.size(0) * T, Q * D, [&](std::int64_t n) {
      const std::int64_t table = n % tables * half;
      for (std::int64_t q = 0; q < Q; ++q)
        k.rotate(data<N>(x) + (n * Q + q) * D, data<float>(cos) + table, data<float>(sin) + table, half,
                 data<N>(out) + (n * Q + q) * D);
    });
  });
  return out;
}

}  // namespace upmoe::ops::raw
