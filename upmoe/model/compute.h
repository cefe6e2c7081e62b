#pragma once
#include <ATen/core/Tensor.h>

namespace upmoe::model {

// bf16 or float32, whichever multiplies matrices of bf16 weights faster here, conversions included. Some CPUs
// are slower in bf16 than in float32. Takes some hundredths of a second.
at::ScalarType faster_compute(at::Device device);

}  // namespace upmoe::model
