// ReMoE: an expert is chosen where its logit is above 0, and that logit is its weight, so that the choice has
// no jump and the router a full gradient. How many experts a token gets is up to the router: a loss on the
// sum of the weights, larger for busy experts, brings the mean to k. Its factor lambda is multiplied by alpha
// after a step that had more than k experts a token, and divided by it after one that had fewer. One uses it
// for a router that is trained long: it begins with about half of the experts, and the weights, which are
// near 0 at first, make the layer nearly nothing. A token may get no expert. Wang, Zhu, Chen, "ReMoE: Fully
// Differentiable Mixture-of-Experts with ReLU Routing", arXiv:2412.14711, and github.com/thu-ml/ReMoE. There
// lambda is one number of the whole model; here each layer has its own, and so has each layer k experts a
// token.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {
namespace {

// Lambda stays a number that can come back from wherever it went.
constexpr double kLeast = 1e-30, kMost = 1e30;

class Relu final : public Router {
 public:
  struct Options {
    double alpha = 1.2, lambda = 1e-8;
    void visit(auto&& field) {
      field(alpha, "alpha", "lambda is multiplied or divided by this after each step");
      field(lambda, "lambda", "factor of the loss on the weights at the first step");
    }
  };
  static RouterTraits traits(const RouterShape& /*shape*/, const Options& /*options*/) {
    return {.sums_to_one = false,
            .ragged = true,
            .cut_at_zero = true,
            .balances_itself = true,
            .sum_at_start = 0};
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "no released architecture has weights that are a ReLU of the logits"};
  }
  Relu(const RouterShape& shape, const Options& options)
      : shape_(shape),
        alpha_(options.alpha),
        lambda_(at::full({}, options.lambda, at::TensorOptions(at::kFloat).device(shape.device))) {
    require_asked(1 <= options.alpha && options.alpha <= 1e6, "relu: alpha is {}, expected 1 to 1e6",
                  options.alpha);
    require_asked(kLeast <= options.lambda && options.lambda <= kMost,
                  "relu: lambda is {}, expected {} to {}", options.lambda, kLeast, kMost);
  }

  void after_step(const Step& step) override {
    const at::Tensor pairs = step.load_X.sum(), asked = pairs.new_full({}, step.tokens * shape_.per_token),
                     factor = at::where(
                         pairs > asked, lambda_.new_full({}, alpha_),
                         at::where(pairs < asked, lambda_.new_full({}, 1 / alpha_), lambda_.new_full({}, 1)));
    lambda_ = (lambda_ * factor).clamp(kLeast, kMost);
  }
  std::vector<State> buffers() override { return {{"lambda", &lambda_}}; }

 private:
  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    const at::Tensor weight_TE = logits_TE.relu(),
                     chosen_TE = call.replay_TM.defined() ? mask_of(call.replay_TM, weight_TE.size(1))
                                                          : weight_TE.detach() > 0;
    Routing out = from_mask(chosen_TE, weight_TE, weight_TE);
    if (call.training) out.loss = lambda_ * sparsity_loss(call, weight_TE, chosen_TE);
    return out;
  }

  // E / (k T^2) * sum over experts of tokens that chose it * sum of its weights. T are the real tokens.
  at::Tensor sparsity_loss(const Call& call, const at::Tensor& weight_TE, const at::Tensor& chosen_TE) const {
    const at::Tensor real_T1 = call.valid_T.defined() ? call.valid_T.to(weight_TE.scalar_type()).unsqueeze(1)
                                                      : weight_TE.new_full({weight_TE.size(0), 1}, 1),
                     tokens = real_T1.sum().clamp_min(1),
                     share_E = (chosen_TE * real_T1).sum(/*dim=*/0) / tokens,
                     mean_E = (weight_TE * real_T1).sum(/*dim=*/0) / tokens;
    return (share_E * mean_E).sum() *
           (static_cast<double>(shape_.experts) / static_cast<double>(shape_.per_token));
  }

  RouterShape shape_;
  double alpha_;
  at::Tensor lambda_;
};

}  // namespace

RouterInfo relu() {
  return info<Relu>(
      "relu", "every expert whose logit is above 0, with that as its weight",
      "S = {i: z_i > 0}; g = z_S; loss = lambda * E / (k T^2) * sum_i n_i * sum_t relu(z_ti); after "
      "a step lambda *= alpha where more than k T experts were chosen, /= alpha where fewer",
      "arXiv:2412.14711, github.com/thu-ml/ReMoE");
}

}  // namespace upmoe::routing
