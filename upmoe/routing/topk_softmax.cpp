// The K largest logits, and a softmax over those alone. Equal to softmax_topk with renormalise up to
// rounding; what Granite and gpt-oss compute (transformers, modeling_granitemoe.py).
#include <ATen/TensorOperators.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class TopkSoftmax final : public TopkRouter {
 public:
  using Options = TopkOptions;
  static RouterTraits traits(const RouterShape& /*shape*/, const Options& options) {
    return with_options({}, options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.by = {"mixtral", "qwen2_moe (norm_topk_prob = true)", "granitemoe"}};
  }
  TopkSoftmax(const RouterShape& shape, const Options& options) : TopkRouter(shape, options) {}

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor expert_TK = pick(logits_TE);
    const at::Tensor weight_TK = logits_TE.gather(/*dim=*/-1, expert_TK).softmax(/*dim=*/-1);
    return from_topk(expert_TK, weight_TK, logits_TE.softmax(/*dim=*/-1));
  }
};

}  // namespace

RouterInfo topk_softmax() {
  return info<TopkSoftmax>("topk_softmax", "the k largest logits, then a softmax over those",
                           "S = topk(z); g = softmax(z_S)", "transformers, modeling_granitemoe.py");
}

}  // namespace upmoe::routing
