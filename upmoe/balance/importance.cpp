// How unequal the experts' sums of weights are: Shazeer et al., arXiv:1701.06538, equations 6 and 7. Experts
// may have equal importance and unequal numbers of tokens; `load` looks at these.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include "upmoe/balance/registry.h"
#include "upmoe/balance/spread.h"

namespace upmoe::balance {
namespace {

class Importance final : public Loss {
 public:
  using Options = NoOptions;
  Importance(LossShape shape, Options /*options*/) : experts_(shape.experts) {}

  at::Tensor of_tokens(const routing::Routing& routing) const override {
    return at::zeros({routing.score_TX.size(0), experts_}, routing.weight_N.options())
        .index_put({routing.token_N, routing.expert_N}, routing.weight_N, /*accumulate=*/true);
  }
  at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const override {
    return squared_variation(sum_SM / tokens_S.unsqueeze(1));
  }

 private:
  std::int64_t experts_;
};

}  // namespace

LossInfo importance() {
  LossInfo out{.name = "importance",
               .summary = "the squared coefficient of variation of the experts' sums of weights",
               .formula = "CV(sum_t g_ti)^2 = variance over i / mean over i squared",
               .source = "arXiv:1701.06538"};
  out.coefficient = 0.1;
  out.balanced = [](const LossShape& /*shape*/) { return 0.0; };
  out.why_not = [](const routing::RouterTraits& router) {
    return router.has_logits ? std::string() : "its weights do not depend on anything that is trained";
  };
  enrol<Importance>(out);
  return out;
}

}  // namespace upmoe::balance
