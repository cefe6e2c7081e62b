// The entropy of each token's probabilities: lowered, tokens decide for few experts, which top-p needs (Huang
// et al., arXiv:2403.07652, equation 8); raised, they stay undecided for longer.
#include <ATen/TensorOperators.h>

#include "upmoe/balance/load_times_probability.h"
#include "upmoe/balance/registry.h"

namespace upmoe::balance {
namespace {

class Entropy final : public Loss {
 public:
  struct Options {
    bool raise = false;
    void visit(auto&& field) { field(raise, "raise", "raise the entropy instead of lowering it"); }
  };
  Entropy(LossShape /*shape*/, Options options) : sign_(options.raise ? -1 : 1) {}

  at::Tensor of_tokens(const routing::Routing& routing) const override {
    constexpr double kNone = 1e-20;  // so that 0 log 0 is 0
    const at::Tensor p_TX = probabilities(routing);
    return (p_TX * (p_TX + kNone).log()).sum(/*dim=*/-1, /*keepdim=*/true).neg();
  }
  at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const override {
    return sign_ * sum_SM.select(1, 0) / tokens_S;
  }

 private:
  double sign_;
};

}  // namespace

LossInfo entropy() {
  LossInfo out{.name = "entropy",
               .summary = "the mean entropy of a token's probabilities",
               .formula = "- mean_t sum_i p_ti log p_ti, or its negative with raise",
               .source = "arXiv:2403.07652, equation 8"};
  out.linear = true;
  out.coefficient = 1e-4;
  out.balanced = [](const LossShape& /*shape*/) { return 0.0; };
  out.why_not = [](const routing::RouterTraits& router) {
    return router.has_logits ? std::string() : "its probabilities do not depend on anything that is trained";
  };
  enrol<Entropy>(out);
  return out;
}

}  // namespace upmoe::balance
