// The K largest logits, and a softmax over those alone. Equal to softmax_topk with renormalise up to
// rounding; what Granite and gpt-oss compute (transformers, modeling_granitemoe.py).
#include <ATen/TensorOperators.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {
namespace {

class TopkSoftmax final : public Router {
 public:
  using Options = NoOptions;
  static RouterTraits traits(Options /*options*/) { return {}; }
  TopkSoftmax(RouterShape shape, Options /*options*/) : per_token_(shape.per_token) {}

 private:
  Routing choose(const at::Tensor& logits_TE) override {
    const at::Tensor expert_TK = select_topk(logits_TE, per_token_);
    const at::Tensor weight_TK = logits_TE.gather(/*dim=*/-1, expert_TK).softmax(/*dim=*/-1);
    return from_topk(expert_TK, weight_TK, logits_TE.softmax(/*dim=*/-1));
  }

  std::int64_t per_token_;
};

}  // namespace

RouterInfo topk_softmax() {
  return info<TopkSoftmax>("topk_softmax", "the k largest logits, then a softmax over those",
                           "S = topk(z); g = softmax(z_S)", "transformers, modeling_granitemoe.py");
}

}  // namespace upmoe::routing
