// Balance by assignment: in training the choice is the top-k of the logits after Sinkhorn's algorithm has
// given every expert the same sum over the real tokens of the batch, so that an expert that all tokens want
// goes to those that want it most. The weights are those of the logits alone: a sigmoid where k = 1, else a
// softmax over all experts. In evaluation the choice is plain top-k; so the two differ, and in training a
// token depends on the others of its batch. Tokens that are all equal are not told apart. Clark et al.,
// "Unified Scaling Laws for Routed Language Models" (S-BASE), arXiv:2202.01169; as in Megatron-LM,
// moe_utils.py, but with an end to the iterations, which need not converge where logits are large.
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "upmoe/base/error.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class Sinkhorn final : public TopkRouter {
 public:
  struct Options : TopkOptions {
    double tolerance = 1e-4;
    std::int64_t iterations = 50;
    void visit(auto&& field) {
      field(tolerance, "tolerance", "mean change of the experts' factors at which Sinkhorn's algorithm ends");
      field(iterations, "iterations", "after which it ends in any case");
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options({.training = {.causal = false, .batch_independent = false},
                         .sums_to_one = false,
                         .balances_itself = true,
                         .sum_at_start = shape.per_token == 1 ? 0.5 : uniform_share(shape)},
                        options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.by = {"glm4_moe (k = 1: norm_topk_prob = false, routed_scaling_factor = 1, "
                   "e_score_correction_bias = 0, n_group = topk_group = 1)",
                   "qwen2_moe (k > 1: norm_topk_prob = false)"}};
  }
  Sinkhorn(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), tolerance_(options.tolerance), iterations_(options.iterations) {
    require_asked(tolerance_ >= 0, "sinkhorn: tolerance is {}, expected 0 or more", tolerance_);
    require_asked(1 <= iterations_ && iterations_ <= 10000, "sinkhorn: iterations is {}, expected 1 to 10000",
                  iterations_);
  }

 private:
  Pick picker(const Call& call) const override {
    if (!call.training || call.replay_TM.defined()) return TopkRouter::picker(call);
    return [this, valid_T = call.valid_T](const at::Tensor& logits_TE) {
      return select_topk(logits_TE.detach() + factors(logits_TE.detach(), valid_T).log(), shape_.per_token);
    };
  }

  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor score_TE = shape_.per_token == 1 ? logits_TE.sigmoid() : logits_TE.softmax(/*dim=*/-1);
    const at::Tensor expert_TK = pick(logits_TE);
    return from_topk(expert_TK, score_TE.gather(/*dim=*/-1, expert_TK), score_TE);
  }

  at::Tensor factors(const at::Tensor& logits_TE, const at::Tensor& valid_T) const;

  double tolerance_;
  std::int64_t iterations_;
};

// Of the experts, by which exp(logits) have to be multiplied. A token's own factor changes none of its
// choices.
at::Tensor Sinkhorn::factors(const at::Tensor& logits_TE, const at::Tensor& valid_T) const {
  constexpr double kNeverZero = 1e-8;
  at::Tensor cost_TE = (logits_TE - logits_TE.amax(/*dim=*/-1, /*keepdim=*/true)).exp();
  if (valid_T.defined()) cost_TE = cost_TE.masked_fill(valid_T.logical_not().unsqueeze(-1), 0);
  const at::Tensor tokens = (cost_TE.sum(/*dim=*/-1) > 0).sum().clamp_min(1);
  at::Tensor expert_E = at::ones({shape_.experts}, cost_TE.options()), going_on = tokens > 0;
  for (std::int64_t i = 0; i < iterations_; ++i) {
    const at::Tensor token_T1 =
                         1 / (tokens * ((cost_TE * expert_E).sum(/*dim=*/-1, /*keepdim=*/true) + kNeverZero)),
                     next_E = 1 / (shape_.experts * ((cost_TE * token_T1).sum(/*dim=*/0) + kNeverZero)),
                     changed = (next_E - expert_E).abs().mean();
    // Where it has ended nothing changes any more; only a CPU is asked whether it has.
    expert_E = at::where(going_on, next_E, expert_E);
    going_on = going_on * (changed > tolerance_);
    if (going_on.is_cpu() && !going_on.item<bool>()) break;
  }
  return expert_E;
}

}  // namespace

RouterInfo sinkhorn() {
  return info<Sinkhorn>("sinkhorn", "top-k of logits that are balanced over the batch, in training",
                        "d = Sinkhorn's factors of exp(z): all experts have equal sums over the real tokens; "
                        "S = topk(z + log d) in training, topk(z) else; k = 1: g = sigmoid(z_S), else "
                        "g = softmax(z)_S",
                        "arXiv:2202.01169; Megatron-LM, moe_utils.py");
}

}  // namespace upmoe::routing
