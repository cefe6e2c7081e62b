// The logits are how well the direction of a token, in a small space, fits the direction of each expert,
// times a learned temperature: long activations are no surer than short ones, and experts do not win by their
// length. One uses it where a router has collapsed. It has parameters of its own, and the layer's router
// weight is not used. Chi et al., "On the Representation Collapse of Sparse Mixture of Experts" (X-MoE),
// arXiv:2204.09179; the start of the temperature as in Tutel (github.com/microsoft/tutel,
// gates/cosine_top.py).
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "upmoe/ops/ops.h"
#include "upmoe/routing/parameter.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/topk_router.h"

// T tokens, H hidden size, E experts, D directions of the small space.
namespace upmoe::routing {
namespace {

at::Tensor unit(const at::Tensor& v) {
  constexpr double kShortest = 1e-12;
  return v / v.norm(/*p=*/2, /*dim=*/-1, /*keepdim=*/true).clamp_min(kShortest);
}

class Cosine final : public TopkRouter {
 public:
  struct Options : TopkOptions {
    bool renormalise = true;
    void visit(auto&& field) {
      field(renormalise, "renormalise", "divide a token's k weights by their sum");
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options({.sums_to_one = options.renormalise,
                         .sum_at_start = options.renormalise ? 1 : measured_sum(shape, options)},
                        options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "no released architecture has a router of cosines"};
  }
  Cosine(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), renormalise_(options.renormalise) {
    constexpr std::int64_t kMostDirections = 256;
    constexpr double kTemperature = 0.5;
    const std::int64_t D = std::min(kMostDirections, shape.hidden);
    project_DH_ = normal_parameter(shape, "project", {D, shape.hidden},
                                   1 / std::sqrt(static_cast<double>(shape.hidden)));
    expert_ED_ = normal_parameter(shape, "expert", {shape.experts, D}, 1 / std::sqrt(static_cast<double>(D)));
    scale_ = at::full({}, -std::log(kTemperature), at::TensorOptions(at::kFloat).device(shape.device))
                 .set_requires_grad(true);
  }
  std::vector<State> parameters() override {
    return {{"project", &project_DH_}, {"expert", &expert_ED_}, {"scale", &scale_}};
  }

 private:
  // Cosines are not near 0 for short tokens, so this is what tokens of random directions get.
  static double measured_sum(const RouterShape& shape, const Options& options) {
    constexpr std::int64_t kTokens = 1024;
    Call call;
    call.x_TH = normal_parameter({.key = shape.key}, "x", {kTokens, shape.hidden}, 1).detach();
    call.gate_EH = at::zeros({shape.experts, shape.hidden});  // has no say
    RouterShape here = shape;
    here.device = at::kCPU;
    return Cosine(here, options).route(call).weight_N.sum().item<double>() / static_cast<double>(kTokens);
  }

  at::Tensor logits_of(const Call& call) const override {
    constexpr double kMostScale = 100;
    const at::ScalarType wide = call.x_TH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor small_TD = ops::linear(call.x_TH.to(wide), project_DH_.to(wide));
    return ops::linear(unit(small_TD), unit(expert_ED_.to(wide))) *
           scale_.to(wide).clamp_max(std::log(kMostScale)).exp();
  }

  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    return choose_of_softmax(logits_TE, pick, renormalise_);
  }

  bool renormalise_;
  at::Tensor project_DH_, expert_ED_, scale_;
};

}  // namespace

RouterInfo cosine() {
  return info<Cosine>(
      "cosine", "top-k by the cosine between a token and each expert, in a small space",
      "z_i = cos(P x, m_i) exp(min(t, ln 100)), t = ln 2 at the start; p = softmax(z); S = topk(p); "
      "g = p_S / sum(p_S), or p_S without renormalise",
      "arXiv:2204.09179");
}

}  // namespace upmoe::routing
