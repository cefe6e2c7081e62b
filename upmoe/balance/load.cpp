// How unequal the numbers of tokens are that the experts may expect, smoothed by the router's own noise so
// that there is a gradient: Shazeer et al., arXiv:1701.06538, appendix A.
#include <ATen/TensorOperators.h>

#include "upmoe/balance/registry.h"
#include "upmoe/balance/spread.h"
#include "upmoe/base/error.h"

namespace upmoe::balance {
namespace {

class Load final : public Loss {
 public:
  using Options = NoOptions;
  Load(LossShape /*shape*/, Options /*options*/) {}

  at::Tensor of_tokens(const routing::Routing& routing) const override {
    require(routing.chance_TX.defined(),
            "balancing loss 'load': the router does not say how likely its choices were");
    return routing.chance_TX;
  }
  at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const override {
    return squared_variation(sum_SM / tokens_S.unsqueeze(1));
  }
};

}  // namespace

LossInfo load() {
  LossInfo out{.name = "load",
               .summary = "the squared coefficient of variation of the experts' expected numbers of tokens",
               .formula = "CV(sum_t P(x_t, i))^2, P: the probability that noise lets expert i be chosen",
               .source = "arXiv:1701.06538, appendix A"};
  out.coefficient = 0.1;
  out.balanced = [](const LossShape& /*shape*/) { return 0.0; };
  out.why_not = [](const routing::RouterTraits& router) {
    return router.has_chance ? std::string()
                             : "it needs the noise of noisy_topk, which says how likely a choice was";
  };
  enrol<Load>(out);
  return out;
}

}  // namespace upmoe::balance
