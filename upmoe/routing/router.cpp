#include "upmoe/routing/router.h"

#include "upmoe/base/error.h"

namespace upmoe::routing {

Routing Router::route(const at::Tensor& logits_TE) {
  if (logits_TE.is_cpu())
    require(logits_TE.detach().isfinite().all().item<bool>(),
            "the router's logits are not finite: the weights or the activations have overflowed");
  return choose(logits_TE);
}

}  // namespace upmoe::routing
