// Keeps the router's logits small, which keeps a softmax in 16 bits honest and a router from getting stuck.
// It balances nothing by itself.  Zoph et al., ST-MoE, arXiv:2202.08906, equation 5. The logits are those
// before noise.
#include <ATen/TensorOperators.h>

#include "upmoe/balance/registry.h"
#include "upmoe/base/error.h"

namespace upmoe::balance {
namespace {

class Z final : public Loss {
 public:
  using Options = NoOptions;
  Z(LossShape /*shape*/, Options /*options*/) {}

  at::Tensor of_tokens(const routing::Routing& routing) const override {
    require(routing.logits_TX.defined(), "balancing loss 'z': the router has no logits");
    return routing.logits_TX.logsumexp(/*dim=*/-1, /*keepdim=*/true).square();
  }
  at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const override {
    return sum_SM.select(1, 0) / tokens_S;
  }
};

}  // namespace

LossInfo z() {
  LossInfo out{.name = "z",
               .summary = "the mean square of the logarithm of the softmax's denominator",
               .formula = "mean_t (log sum_i exp(z_ti))^2",
               .source = "arXiv:2202.08906"};
  out.linear = true;
  out.coefficient = 1e-3;
  out.balanced = [](const LossShape& /*shape*/) { return 0.0; };
  out.why_not = [](const routing::RouterTraits& router) {
    return router.has_logits ? std::string() : "it has no logits";
  };
  enrol<Z>(out);
  return out;
}

}  // namespace upmoe::balance
