#include "upmoe/routing/select.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/sort.h>

namespace upmoe::routing {

at::Tensor select_topk(const at::Tensor& score_TE, std::int64_t per_token) {
  // at::topk would leave the order of equal scores to the device.
  const auto [sorted, expert_TE] =
      at::sort(score_TE.detach(), /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  return expert_TE.narrow(/*dim=*/-1, /*start=*/0, per_token).contiguous();
}

Routing from_topk(const at::Tensor& expert_TK, const at::Tensor& weight_TK, const at::Tensor& score_TE) {
  const std::int64_t T = expert_TK.size(0), K = expert_TK.size(1);
  return {.token_N = at::arange(T, expert_TK.options()).repeat_interleave(K),
          .expert_N = expert_TK.reshape({T * K}),
          .weight_N = weight_TK.reshape({T * K}),
          .score_TE = score_TE};
}

}  // namespace upmoe::routing
