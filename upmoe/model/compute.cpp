#include "upmoe/model/compute.h"

#include <algorithm>

namespace upmoe::model {

at::ScalarType compute_of(at::ArrayRef<at::ScalarType> weights, at::Device device,
                          const ops::Processor& processor) {
  const at::ScalarType first = weights.front();
  if (std::ranges::any_of(weights, [&](at::ScalarType other) { return other != first; })) return at::kFloat;
  if (!device.is_cpu()) return first;
  // Of half: bf16 would lose three bits of the weights, and its own products are slow.
  if (first != at::kBFloat16) return at::kFloat;
  return processor.amx_bf16 || (processor.avx512_bf16 && processor.amd) ? at::kBFloat16 : at::kFloat;
}

}  // namespace upmoe::model
