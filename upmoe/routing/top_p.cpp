// As many experts as a token needs: the largest probabilities until they sum to the threshold, so that a
// token of which the router is unsure gets more. One uses it where tokens differ in how hard they are; while
// the router is near uniform, as after upcycling, a token gets threshold * E experts, whatever k is. Huang et
// al., "Harder Tasks Need More Experts: Dynamic Routing in MoE Models", arXiv:2403.07652, which adds the
// entropy of the probabilities to the loss (1e-4), so that they become sure.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {
namespace {

class TopP final : public Router {
 public:
  struct Options {
    double threshold = 0.4;
    bool renormalise = false;
    void visit(auto&& field) {
      field(threshold, "threshold", "a token gets the fewest experts whose probabilities sum to this");
      field(renormalise, "renormalise", "divide the weights of a token by their sum");
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    constexpr double kRounding = 1e-9;  // so that a whole number stays what it is
    const auto E = static_cast<double>(shape.experts);
    const bool to_one = options.renormalise || options.threshold >= 1;
    return {.sums_to_one = to_one,
            .ragged = true,
            .sum_at_start = to_one ? 1 : std::max(std::ceil(options.threshold * E - kRounding), 1.0) / E};
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "in every released architecture all tokens have the same number of experts"};
  }
  TopP(const RouterShape& /*shape*/, const Options& options) : options_(options) {
    require_asked(0 < options.threshold && options.threshold <= 1,
                  "top_p: threshold is {}, expected above 0 and at most 1", options.threshold);
  }

 private:
  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    const at::Tensor score_TE = logits_TE.softmax(/*dim=*/-1),
                     chosen_TE = call.replay_TM.defined() ? mask_of(call.replay_TM, score_TE.size(1))
                                                          : choose(score_TE.detach()),
                     sum_T1 = (score_TE * chosen_TE).sum(/*dim=*/-1, /*keepdim=*/true);
    return from_mask(chosen_TE, options_.renormalise ? score_TE / sum_T1.clamp_min(1e-30) : score_TE,
                     score_TE);
  }

  // An expert is chosen where those in front of it do not sum to the threshold yet: the first one always is.
  at::Tensor choose(const at::Tensor& score_TE) const {
    constexpr double kRounding = 1e-7;  // of float32 scores: those that reach the threshold exactly suffice
    const std::int64_t E = score_TE.size(1);
    const at::Tensor expert_TE = select_topk(score_TE, E), sorted_TE = score_TE.gather(/*dim=*/-1, expert_TE),
                     sum_TE = sorted_TE.to(at::kDouble).cumsum(/*dim=*/-1),  // the same on every device
        short_TE = sum_TE.narrow(1, 0, E - 1) < options_.threshold - kRounding,
                     first_T1 = at::zeros_like(short_TE.narrow(1, 0, 1)).logical_not();
    return at::zeros_like(score_TE, at::kBool).scatter(1, expert_TE, at::cat({first_T1, short_TE}, 1));
  }

  Options options_;
};

}  // namespace

RouterInfo top_p() {
  return info<TopP>(
      "top_p", "the fewest experts whose probabilities sum to a threshold",
      "p = softmax(z); S = the shortest prefix of p, sorted, with sum(p_S) >= threshold; g = p_S, "
      "or p_S / sum(p_S) with renormalise",
      "arXiv:2403.07652");
}

}  // namespace upmoe::routing
