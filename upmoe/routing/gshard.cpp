// Two experts for each token, weights divided by their sum; in training the second is kept with a probability
// that grows with its weight.  Lepikhin et al., "GShard", arXiv:2006.16668, algorithm 1, line 16: the second
// expert is used where 2 * g2 > a uniform number.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>

#include "upmoe/routing/noise.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class GShard final : public TopkRouter {
 public:
  struct Options : TopkOptions {
    double threshold = 0.5;
    void visit(auto&& field) {
      field(threshold, "threshold",
            "in training the second expert is kept with probability g2 / threshold; 0: always kept");
      TopkOptions::visit(field);
    }
  };
  static std::int64_t per_token(const RouterShape& shape) { return std::min<std::int64_t>(2, shape.experts); }
  static RouterTraits traits(const RouterShape& /*shape*/, const Options& options) {
    return with_options({.draws = options.threshold > 0}, options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.by = {"mixtral", "qwen2_moe (norm_topk_prob = true)", "granitemoe"}};
  }
  GShard(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), threshold_(options.threshold) {
    require_asked(0 <= threshold_ && threshold_ <= 1, "gshard: threshold is {}, expected 0 to 1", threshold_);
  }

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    return choose_of_softmax(logits_TE, pick, /*renormalise=*/true);
  }

  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    Routing out = TopkRouter::decide(call, logits_TE);
    if (!call.training || threshold_ == 0 || shape_.per_token < 2) return out;
    const at::Tensor chance_T = draw(call, "second", Draw::uniform, 1).select(1, 0) * threshold_,
                     second_N = out.expert_N == out.chosen_TM.select(1, 1).index_select(0, out.token_N),
                     kept_N = out.weight_N.detach() > chance_T.index_select(0, out.token_N);
    return keep_pairs(out, second_N.logical_not() + kept_N);
  }

  double threshold_;
};

}  // namespace

RouterInfo gshard() {
  return info<GShard>("gshard", "two experts; in training the second is kept at random",
                      "p = softmax(z); S = top2(p); g = p_S / sum(p_S); training: the second only where "
                      "g_2 > threshold * uniform(0, 1)",
                      "arXiv:2006.16668, algorithm 1");
}

}  // namespace upmoe::routing
