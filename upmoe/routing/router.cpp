#include "upmoe/routing/router.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/ops.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {

at::Tensor Router::logits(const Call& call) const {
  // In float32 whatever the model computes in: rounded logits would send tokens elsewhere.
  const at::ScalarType wide = call.x_TH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return ops::linear(call.x_TH.to(wide), call.gate_EH);
}

Routing Router::route(const Call& call) const {
  const at::Tensor logits_TX = logits(call);
  const bool has_logits = logits_TX.defined();
  if (has_logits && !call.training && logits_TX.is_cpu())
    require(logits_TX.detach().isfinite().all().item<bool>(),
            "{}the router's logits are not finite: the weights or the activations have overflowed",
            call.where);
  Routing out = decide(call, logits_TX);
  out.logits_TX = logits_TX;
  out.load_X = count_load(out.chosen_TM, call.valid_T, out.score_TX.size(1));
  if (has_logits && call.training) {
    const at::Tensor poison = (logits_TX.detach() * 0).sum();  // 0, or NaN where any is not finite
    out.weight_N = out.weight_N + poison;
    out.loss = out.loss.defined() ? out.loss + poison : poison;
  }
  return out;
}

}  // namespace upmoe::routing
