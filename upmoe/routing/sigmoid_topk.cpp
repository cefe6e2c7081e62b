// The K largest logits, weighted by a sigmoid of each alone: experts do not compete within the score, so a
// token may want several of them fully. Divided by their sum, as in DeepSeek-V3 and GLM-4.5, this is their
// router without the bias and the groups (bias_topk has both). With renormalise=false and k = 1 it chooses
// and weights as Llama 4 does, which multiplies the expert's input by the weight, and not its output.
// transformers, modeling_glm4_moe.py and modeling_llama4.py.
#include <ATen/TensorOperators.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/score.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class SigmoidTopk final : public TopkRouter {
 public:
  struct Options : TopkOptions, WeightOptions {
    void visit(auto&& field) {
      WeightOptions::visit(field);
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options(with_weights({}, Score::sigmoid, options, shape), options);
  }
  static Holders holders(const Options& options) {
    return {.by = {options.as_config("glm4_moe (e_score_correction_bias = 0, n_group = topk_group = 1")}};
  }
  SigmoidTopk(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), options_(options) {
    options.check("sigmoid_topk");
  }

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor score_TE = score(Score::sigmoid, logits_TE);
    // By the logits, which still differ where a large sigmoid is rounded to 1.
    const at::Tensor expert_TK = pick(logits_TE);
    return from_topk(expert_TK, weights(score_TE.gather(/*dim=*/-1, expert_TK), options_), score_TE);
  }

  Options options_;
};

}  // namespace

RouterInfo sigmoid_topk() {
  return info<SigmoidTopk>("sigmoid_topk", "the k largest logits, each weighted by its own sigmoid",
                           "s = sigmoid(z); S = topk(z); g = scale * s_S / (sum(s_S) + 1e-20), or "
                           "scale * s_S without renormalise",
                           "transformers, modeling_glm4_moe.py");
}

}  // namespace upmoe::routing
