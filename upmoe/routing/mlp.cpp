// A router of two layers, for a choice that no plane between the tokens makes: to the logits of the layer's
// router weight it adds those of a small network, whose last matrix starts at zero. So a checkpoint with a
// router begins as what it is with softmax_topk. Two-layer routers: Jin et al., "MoE++", arXiv:2410.07348
// (there without the sum).
#include <ATen/TensorOperators.h>
#include <ATen/ops/silu.h>

#include <algorithm>
#include <cmath>

#include "upmoe/ops/ops.h"
#include "upmoe/routing/parameter.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class Mlp final : public TopkRouter {
 public:
  struct Options : TopkOptions {
    bool renormalise = true;
    std::int64_t width = 0;
    void visit(auto&& field) {
      field(renormalise, "renormalise", "divide a token's k weights by their sum");
      field(width, "width",
            "neurons between the two layers of the router; 0: 256, or the hidden size if that is less");
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options(
        {.sums_to_one = options.renormalise, .sum_at_start = options.renormalise ? 1 : uniform_share(shape)},
        options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "no released architecture has a router of two layers"};
  }
  Mlp(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), renormalise_(options.renormalise) {
    constexpr std::int64_t kPreset = 256, kMost = 1 << 16;
    require_asked(0 <= options.width && options.width <= kMost, "mlp: width is {}, expected 0 to {}",
                  options.width, kMost);
    const std::int64_t W = options.width > 0 ? options.width : std::min(kPreset, shape.hidden);
    up_WH_ =
        normal_parameter(shape, "up", {W, shape.hidden}, 1 / std::sqrt(static_cast<double>(shape.hidden)));
    down_EW_ = zero_parameter(shape, {shape.experts, W});
  }
  std::vector<State> parameters() override { return {{"up", &up_WH_}, {"down", &down_EW_}}; }

 private:
  at::Tensor logits_of(const Call& call) const override {
    const at::Tensor z_TE = TopkRouter::logits_of(call),
                     up_TW = ops::linear(call.x_TH.to(z_TE.scalar_type()), up_WH_.to(z_TE.scalar_type()));
    return z_TE + ops::linear(at::silu(up_TW), down_EW_.to(z_TE.scalar_type()));
  }

  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    return choose_of_softmax(logits_TE, pick, renormalise_);
  }

  bool renormalise_;
  at::Tensor up_WH_, down_EW_;
};

}  // namespace

RouterInfo mlp() {
  return info<Mlp>("mlp", "top-k by a router of two layers, beside the layer's own",
                   "z = x W^T + W2 silu(W1 x), W2 = 0 at the start; p = softmax(z); S = topk(p); g = p_S / "
                   "sum(p_S), or p_S without renormalise",
                   "arXiv:2410.07348, with a sum");
}

}  // namespace upmoe::routing
