// The sum of the weights of ReLU routing, with more weight for experts that have more tokens: makes it sparse
// and balanced at once.  Wang et al., ReMoE, arXiv:2412.14711, equation 9. The router `relu` adds this by
// itself with a coefficient that it controls; here the coefficient is fixed.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "upmoe/balance/registry.h"
#include "upmoe/routing/select.h"

namespace upmoe::balance {
namespace {

class ReluL1 final : public Loss {
 public:
  using Options = NoOptions;
  ReluL1(LossShape shape, Options /*options*/) : per_token_(static_cast<double>(shape.per_token)) {}

  at::Tensor of_tokens(const routing::Routing& routing) const override {
    const at::Tensor relu_TX = routing.logits_TX.relu();
    return at::cat({relu_TX, (relu_TX > 0).to(relu_TX.scalar_type())}, /*dim=*/1);
  }
  at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const override {
    const std::int64_t X = sum_SM.size(1) / 2;
    const at::Tensor tokens_S1 = tokens_S.unsqueeze(1), mean_SX = sum_SM.narrow(1, 0, X) / tokens_S1,
                     share_SX = sum_SM.narrow(1, X, X) / (tokens_S1 * per_token_);
    return static_cast<double>(X) * (share_SX * mean_SX).sum(1);
  }

 private:
  double per_token_;
};

}  // namespace

LossInfo relu_l1() {
  LossInfo out{.name = "relu_l1",
               .summary = "the positive logits, weighted by the share of tokens that have them",
               .formula = "E * sum_i f_i mean_t max(z_ti, 0), f_i = (number of t with z_ti > 0) / (k T)",
               .source = "arXiv:2412.14711, equation 9"};
  out.coefficient = 1e-3;
  out.balanced = [](const LossShape& /*shape*/) { return 0.0; };
  out.why_not = [](const routing::RouterTraits& router) {
    if (!router.has_logits) return "it has no logits";
    return router.cut_at_zero ? "" : "only a choice of what is above 0 becomes sparse by it: router relu";
  };
  enrol<ReluL1>(out);
  return out;
}

}  // namespace upmoe::balance
