// Every expert for every token, with its probability as the weight: what the sparse strategies approximate.
// One uses it as the reference of a comparison, or with few experts. It costs E / k times as much as top-k.
// Jacobs, Jordan, Nowlan, Hinton, "Adaptive Mixtures of Local Experts", Neural Computation 3(1), 1991.
#include <ATen/ops/arange.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {
namespace {

class Dense final : public Router {
 public:
  using Options = NoOptions;
  static std::int64_t per_token(const RouterShape& shape) { return shape.experts; }
  static RouterTraits traits(const RouterShape& /*shape*/, const Options& /*options*/) {
    return {.even_load = true};
  }
  static Holders holders(const Options& /*options*/) {
    return {.by = {"mixtral (num_experts_per_tok = num_local_experts)",
                   "qwen2_moe (num_experts_per_tok = num_experts)",
                   "granitemoe (num_experts_per_tok = num_local_experts)"}};
  }
  Dense(const RouterShape& /*shape*/, const Options& /*options*/) {}

 private:
  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    const at::Tensor score_TE = logits_TE.softmax(/*dim=*/-1),
                     every_TE = at::arange(score_TE.size(1), score_TE.options().dtype(at::kLong))
                                    .expand_as(score_TE)
                                    .contiguous(),
                     expert_TM = call.replay_TM.defined() ? call.replay_TM : every_TE;
    return from_topk(expert_TM, score_TE.gather(/*dim=*/-1, expert_TM), score_TE);
  }
};

}  // namespace

RouterInfo dense() {
  return info<Dense>("dense", "every expert, weighted by a softmax", "S = all; g = softmax(z)",
                     "Neural Computation 3(1), 1991, pages 79-87");
}

}  // namespace upmoe::routing
