#pragma once
#include <ATen/core/Tensor.h>

#include "upmoe/ops/processor.h"

namespace upmoe::model {

// The dtype of the arithmetic for models with weights of these dtypes, which are to be compared: one for all.
// It follows from what the processor is, not from what it is doing just now, so the same command computes the
// same again. For bf16 weights on a CPU: bf16 with AMX or AMD's AVX512_BF16; Intel's AVX512_BF16 was slower
// than float32.
at::ScalarType compute_of(at::ArrayRef<at::ScalarType> weights, at::Device device,
                          const ops::Processor& processor);

}  // namespace upmoe::model
