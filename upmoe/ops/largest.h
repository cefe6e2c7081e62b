#pragma once
#include <ATen/core/Tensor.h>

namespace upmoe::ops {

// The number of a tensor that is largest in size; infinite or NaN where one is; of an empty one 0.
double largest(const at::Tensor& x);

}  // namespace upmoe::ops
