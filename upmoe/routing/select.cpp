#include "upmoe/routing/select.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace upmoe::routing {
namespace {

// A token's K best so far, in order: an expert goes in front of those whose score is smaller, and so behind
// those that are equal and came before it. NaN goes in front of nothing.
template <class Real>
void select_rows(const Real* score, std::int64_t* expert, std::int64_t T, std::int64_t E, std::int64_t K) {
  constexpr std::int64_t kGrain = 256;  // tokens
  at::parallel_for(0, T, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const Real* s = score + t * E;
      std::int64_t* best = expert + t * K;
      for (std::int64_t e = 0, filled = 0; e < E; ++e) {
        std::int64_t at = filled;
        while (at > 0 && s[e] > s[best[at - 1]]) --at;
        if (at == K) continue;
        filled = std::min(filled + 1, K);
        std::copy_backward(best + at, best + filled - 1, best + filled);
        best[at] = e;
      }
    }
  });
}

}  // namespace

at::Tensor select_topk(const at::Tensor& score_TE, std::int64_t per_token) {
  const at::Tensor score = score_TE.detach().contiguous();
  const std::int64_t T = score.size(0), E = score.size(1);
  // at::topk would leave the order of equal scores to the device.
  if (!score.is_cpu())
    return std::get<1>(at::sort(score, /*stable=*/true, /*dim=*/-1, /*descending=*/true))
        .narrow(/*dim=*/-1, /*start=*/0, per_token)
        .contiguous();
  const at::Tensor out = at::empty({T, per_token}, score.options().dtype(at::kLong));
  auto* expert = out.mutable_data_ptr<std::int64_t>();
  if (score.scalar_type() == at::kDouble)
    select_rows(score.const_data_ptr<double>(), expert, T, E, per_token);
  else
    select_rows(score.const_data_ptr<float>(), expert, T, E, per_token);
  return out;
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
