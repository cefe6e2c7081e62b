#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rsqrt.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/reference.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {

Tensor rms_norm(const Tensor& x_NH, const Tensor& weight_H, double eps) {
  if (!has_kernels(x_NH)) return reference::rms_norm(x_NH, weight_H, eps);
  const std::int64_t H = x_NH.size(-1);
  require(weight_H.dim() == 1 && weight_H.size(0) == H, "rms_norm: {} weights for rows of {}",
          weight_H.numel(), H);
  const Tensor x = x_NH.contiguous(), weight = weight_H.to(x.scalar_type()).contiguous(),
               out = at::empty_like(x);
  with_kernels(x.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for_each_row(H == 0 ? 0 : x.numel() / H, H, [&](std::int64_t n) {
      k.rms_norm(data<T>(x) + n * H, data<T>(weight), H, eps, data<T>(out) + n * H);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& weight_H,
                                             double eps) {
  const at::ScalarType dtype = x_NH.scalar_type(), wide = dtype == at::kDouble ? dtype : at::kFloat;
  const Tensor x = x_NH.to(wide), dy = dy_NH.to(wide);
  const Tensor scale = at::rsqrt(x.pow(2).mean(/*dim=*/-1, /*keepdim=*/true) + eps), normed = x * scale;
  const Tensor dnormed = dy * weight_H.to(wide);
  const Tensor dx = scale * (dnormed - normed * (dnormed * normed).mean(/*dim=*/-1, /*keepdim=*/true));
  const Tensor dweight = (dy * normed).reshape({-1, weight_H.size(0)}).sum(/*dim=*/0);
  return {dx.to(dtype), dweight.to(weight_H.scalar_type())};
}

}  // namespace upmoe::ops::raw
