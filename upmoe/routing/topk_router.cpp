#include "upmoe/routing/topk_router.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>

#include "upmoe/base/error.h"
#include "upmoe/routing/capacity.h"
#include "upmoe/routing/noise.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {
TopkRouter::TopkRouter(const RouterShape& shape, const TopkOptions& options)
    : shape_(shape), options_(options) {
  require(1 <= shape.per_token && shape.per_token <= shape.experts, "top-{} of {} experts", shape.per_token,
          shape.experts);
  require_asked(0 <= options.noise_scale && options.noise_scale <= 1e6,
                "noise-scale is {}, expected 0 to 1e6", options.noise_scale);
  require_asked(0 <= options.jitter && options.jitter < 1, "jitter is {}, expected 0 or more and below 1",
                options.jitter);
  require_asked(options.capacity >= 0, "capacity is {}, expected 0 or more", options.capacity);
}

Pick TopkRouter::picker(const Call& call) const {
  if (!call.replay_TM.defined())
    return [this](const at::Tensor& score_TE) { return select_topk(score_TE, shape_.per_token); };
  require(call.replay_TM.size(1) == shape_.per_token,
          "{} experts of each token are to be replayed, and k is {}", call.replay_TM.size(1),
          shape_.per_token);
  return [replay_TM = call.replay_TM](const at::Tensor& /*score_TE*/) { return replay_TM; };
}

at::Tensor TopkRouter::logits(const Call& call) const {
  if (!call.training || options_.jitter == 0) return logits_of(call);
  const at::Tensor u_TH = draw(call, "jitter", Draw::uniform, call.x_TH.size(1));
  Call jittered = call;
  jittered.x_TH = call.x_TH * (1 + options_.jitter * (2 * u_TH - 1));  // float32: the experts see x itself
  return logits_of(jittered);
}

Routing TopkRouter::decide(const Call& call, const at::Tensor& logits_TE) const {
  Pick pick = picker(call);
  at::Tensor noisy_TE = logits_TE;
  if (call.training && options_.noise.value != "none")
    noisy_TE =
        logits_TE + options_.noise_scale *
                        draw(call, "noise", options_.noise.value == "gumbel" ? Draw::gumbel : Draw::normal,
                             logits_TE.size(1));
  if (!noisy_TE.is_same(logits_TE) && options_.noise_for.value == "choice") {
    if (!call.replay_TM.defined()) {
      Call again = call;
      again.replay_TM = choose(noisy_TE.detach(), pick).chosen_TM;
      pick = picker(again);
    }
    noisy_TE = logits_TE;
  }
  Routing out = choose(noisy_TE, pick);
  if (call.training && options_.capacity > 0)
    out = within_capacity(out, call,
                          {.factor = options_.capacity, .by_weight = options_.drop.value == "probability"});
  return out;
}

Routing choose_of_softmax(const at::Tensor& logits_TE, const Pick& pick, bool renormalise) {
  const at::Tensor score_TE = logits_TE.softmax(/*dim=*/-1), expert_TK = pick(score_TE),
                   weight_TK = score_TE.gather(/*dim=*/-1, expert_TK);
  if (!renormalise) return from_topk(expert_TK, weight_TK, score_TE);
  // Of experts that were not chosen for their scores, all of these may be too small for a number.
  constexpr double kSmallest = 1e-30;
  const at::Tensor sum_T1 = weight_TK.sum(/*dim=*/-1, /*keepdim=*/true),
                   is_sound_T1 = sum_T1.detach() > kSmallest,
                   by_logit_TK = logits_TE.gather(/*dim=*/-1, expert_TK).softmax(/*dim=*/-1);
  return from_topk(
      expert_TK,
      at::where(is_sound_T1, weight_TK / sum_T1.masked_fill(is_sound_T1.logical_not(), 1), by_logit_TK),
      score_TE);
}

RouterTraits with_options(RouterTraits traits, const TopkOptions& options) {
  if (options.noise.value != "none" || options.jitter > 0) traits.draws = true;
  if (options.capacity > 0 && options.drop.value == "probability") traits.training.causal = false;
  return traits;
}

}  // namespace upmoe::routing
