#pragma once
#include <ATen/core/Tensor.h>

namespace upmoe::balance {

// The squared coefficient of variation of each row: variance (over E, not E - 1) / mean^2, as Shazeer has it
// with a 1e-10 below the fraction. [S, E] -> [S]
at::Tensor squared_variation(const at::Tensor& of_SE);

}  // namespace upmoe::balance
