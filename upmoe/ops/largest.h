#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>

#include "upmoe/ops/kernels.h"

namespace upmoe::ops {

// The largest of some numbers in size; infinite or NaN where one of them is.
float largest(const float* x, std::size_t count);
float largest(const Bf16* x, std::size_t count);

// The same of a tensor; of an empty one 0.
double largest(const at::Tensor& x);

}  // namespace upmoe::ops
