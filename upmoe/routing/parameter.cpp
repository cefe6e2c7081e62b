#include "upmoe/routing/parameter.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "upmoe/random/normal.h"

namespace upmoe::routing {

at::Tensor zero_parameter(const RouterShape& shape, at::IntArrayRef sizes) {
  return at::zeros(sizes, at::TensorOptions(at::kFloat).device(shape.device)).set_requires_grad(true);
}

at::Tensor normal_parameter(const RouterShape& shape, std::string_view name, at::IntArrayRef sizes,
                            double std) {
  const at::Tensor out = at::empty(sizes, at::kFloat);
  normals(shape.key.at(name), 0, /*mean=*/0, static_cast<float>(std),
          {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out.to(shape.device).set_requires_grad(true);
}

}  // namespace upmoe::routing
