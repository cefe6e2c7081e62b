// A softmax over all experts, the K largest of it, and those divided by their sum: Mixtral (transformers,
// modeling_mixtral.py). Without the division: Qwen1.5-MoE, OLMoE, DeepSeek-V2.
#include "upmoe/routing/registry.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class SoftmaxTopk final : public TopkRouter {
 public:
  struct Options : TopkOptions {
    bool renormalise = true;
    void visit(auto&& field) {
      field(renormalise, "renormalise", "divide a token's k weights by their sum");
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options(
        {.sums_to_one = options.renormalise, .sum_at_start = options.renormalise ? 1 : uniform_share(shape)},
        options);
  }
  static Holders holders(const Options& options) {
    if (options.renormalise) return {.by = {"mixtral", "qwen2_moe (norm_topk_prob = true)", "granitemoe"}};
    return {.by = {"qwen2_moe (norm_topk_prob = false)"}};
  }
  SoftmaxTopk(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), renormalise_(options.renormalise) {}

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    return choose_of_softmax(logits_TE, pick, renormalise_);
  }

  bool renormalise_;
};

}  // namespace

RouterInfo softmax_topk() {
  return info<SoftmaxTopk>("softmax_topk", "a softmax over all experts, then the k largest of it",
                           "p = softmax(z); S = topk(p); g = p_S / sum(p_S), or p_S without renormalise",
                           "transformers, modeling_mixtral.py");
}

}  // namespace upmoe::routing
