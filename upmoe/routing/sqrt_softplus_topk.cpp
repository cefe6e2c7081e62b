// The K largest logits, each weighted by the square root of its softplus: like a sigmoid for small logits,
// but without an upper end, so a confident router keeps a gradient. DeepSeek-V4's router without its bias
// (bias_topk with score=sqrt_softplus has it); transformers, modeling_deepseek_v4.py.
#include <ATen/TensorOperators.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/score.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class SqrtSoftplusTopk final : public TopkRouter {
 public:
  struct Options : TopkOptions, WeightOptions {
    void visit(auto&& field) {
      WeightOptions::visit(field);
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options(with_weights({}, Score::sqrt_softplus, options, shape), options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "deepseek_v4 computes it, but its attention is not Llama's"};
  }
  SqrtSoftplusTopk(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), options_(options) {
    options.check("sqrt_softplus_topk");
  }

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor score_TE = score(Score::sqrt_softplus, logits_TE);
    const at::Tensor expert_TK = pick(logits_TE);
    return from_topk(expert_TK, weights(score_TE.gather(/*dim=*/-1, expert_TK), options_), score_TE);
  }

  Options options_;
};

}  // namespace

RouterInfo sqrt_softplus_topk() {
  return info<SqrtSoftplusTopk>(
      "sqrt_softplus_topk", "the k largest logits, each weighted by the root of its softplus",
      "s = sqrt(softplus(z)); S = topk(z); g = scale * s_S / (sum(s_S) + 1e-20), or "
      "scale * s_S without renormalise",
      "transformers, modeling_deepseek_v4.py");
}

}  // namespace upmoe::routing
