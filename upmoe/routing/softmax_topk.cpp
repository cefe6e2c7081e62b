// A softmax over all experts, the K largest of it, and those divided by their sum: Mixtral (transformers,
// modeling_mixtral.py). Without the division: Qwen1.5-MoE, OLMoE, DeepSeek-V2.
#include <ATen/TensorOperators.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {
namespace {

class SoftmaxTopk final : public Router {
 public:
  struct Options {
    bool renormalise = true;
    void visit(auto&& field) { field(renormalise, "renormalise", "divide a token's k weights by their sum"); }
  };
  static RouterTraits traits(Options options) { return {.sums_to_one = options.renormalise}; }
  SoftmaxTopk(RouterShape shape, Options options)
      : per_token_(shape.per_token), renormalise_(options.renormalise) {}

 private:
  Routing choose(const at::Tensor& logits_TE) override {
    const at::Tensor score_TE = logits_TE.softmax(/*dim=*/-1);
    const at::Tensor expert_TK = select_topk(score_TE, per_token_);
    const at::Tensor weight_TK = score_TE.gather(/*dim=*/-1, expert_TK);
    return from_topk(expert_TK,
                     renormalise_ ? weight_TK / weight_TK.sum(/*dim=*/-1, /*keepdim=*/true) : weight_TK,
                     score_TE);
  }

  std::int64_t per_token_;
  bool renormalise_;
};

}  // namespace

RouterInfo softmax_topk() {
  return info<SoftmaxTopk>("softmax_topk", "a softmax over all experts, then the k largest of it",
                           "p = softmax(z); S = topk(p); g = p_S / sum(p_S), or p_S without renormalise",
                           "transformers, modeling_mixtral.py");
}

}  // namespace upmoe::routing
