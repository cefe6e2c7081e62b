#include "upmoe/balance/spread.h"

#include <ATen/TensorOperators.h>

namespace upmoe::balance {

at::Tensor squared_variation(const at::Tensor& of_SE) {
  constexpr double kNone = 1e-10;
  const at::Tensor mean_S = of_SE.mean(1);
  return of_SE.var(/*dim=*/1, /*unbiased=*/false) / (mean_S.square() + kNone);
}

}  // namespace upmoe::balance
