#include "upmoe/routing/select.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/sort.h>

#include <algorithm>
#include <vector>

namespace upmoe::routing {
namespace {

constexpr std::int64_t kMostNumbers = 1 << 24;  // sorted at once

}  // namespace

at::Tensor select_topk(const at::Tensor& score_TE, std::int64_t per_token) {
  // at::topk would leave the order of equal scores to the device.
  const at::Tensor score = score_TE.detach();
  const std::int64_t T = score.size(0), step = std::max<std::int64_t>(1, kMostNumbers / score.size(1));
  std::vector<at::Tensor> chosen;  // in pieces, since sorted tables take three times what they are made of
  for (std::int64_t begin = 0; begin == 0 || begin < T; begin += step) {
    const auto [sorted, expert_TE] =
        at::sort(score.narrow(0, begin, std::min(step, T - begin)), /*stable=*/true,
                 /*dim=*/-1, /*descending=*/true);
    chosen.push_back(expert_TE.narrow(/*dim=*/-1, /*start=*/0, per_token).contiguous());
  }
  return chosen.size() == 1 ? chosen.front() : at::cat(chosen);
}

Routing from_topk(const at::Tensor& expert_TK, const at::Tensor& weight_TK, const at::Tensor& score_TE) {
  const std::int64_t T = expert_TK.size(0), K = expert_TK.size(1);
  return {.token_N = at::arange(T, expert_TK.options()).repeat_interleave(K),
          .expert_N = expert_TK.reshape({T * K}),
          .weight_N = weight_TK.reshape({T * K}),
          .score_TE = score_TE};
}

}  // namespace upmoe::routing
