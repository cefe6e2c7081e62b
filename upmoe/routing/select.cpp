#include "upmoe/routing/select.h"

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

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
  Routing out;
  out.token_N = at::arange(T, expert_TK.options()).repeat_interleave(K);
  out.expert_N = expert_TK.reshape({T * K});
  out.weight_N = weight_TK.reshape({T * K});
  out.score_TX = score_TE;
  out.chosen_TM = expert_TK;
  return out;
}

Routing from_mask(const at::Tensor& chosen_TE, const at::Tensor& weight_TE, const at::Tensor& score_TE) {
  const at::Tensor pair_N2 = chosen_TE.nonzero(),
                   expert_E = at::arange(chosen_TE.size(1), chosen_TE.options().dtype(at::kLong));
  Routing out;
  out.token_N = pair_N2.select(1, 0).contiguous();
  out.expert_N = pair_N2.select(1, 1).contiguous();
  out.weight_N = weight_TE.masked_select(chosen_TE);
  out.score_TX = score_TE;
  out.chosen_TM = at::where(chosen_TE, expert_E, at::Scalar(-1));
  return out;
}

at::Tensor mask_of(const at::Tensor& chosen_TM, std::int64_t experts) {
  // One column more, for what is -1.
  const at::Tensor out = at::zeros({chosen_TM.size(0), experts + 1}, chosen_TM.options().dtype(at::kBool));
  return out.scatter(1, at::add(chosen_TM, 1), /*value=*/true).narrow(1, 1, experts);
}

at::Tensor count_load(const at::Tensor& chosen_TM, const at::Tensor& valid_T, std::int64_t experts) {
  const at::Tensor slot_TM = at::add(chosen_TM, 1);  // 0: none
  const at::Tensor one_TM = valid_T.defined()
                                ? valid_T.to(at::kLong).unsqueeze(1).expand_as(slot_TM).contiguous()
                                : at::ones_like(slot_TM);
  return at::zeros({experts + 1}, chosen_TM.options())
      .scatter_add(0, slot_TM.reshape(-1), one_TM.reshape(-1))
      .narrow(0, 1, experts);
}

Routing keep_pairs(Routing routing, const at::Tensor& kept_N) {
  routing.token_N = routing.token_N.masked_select(kept_N);
  routing.expert_N = routing.expert_N.masked_select(kept_N);
  routing.weight_N = routing.weight_N.masked_select(kept_N);
  return routing;
}

}  // namespace upmoe::routing
