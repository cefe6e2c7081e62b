// One expert for each token, with its probability as the weight: the router learns through it, and a sum of
// weights of about 1/E is what an upcycled model starts with.  Fedus, Zoph, Shazeer, "Switch Transformers",
// arXiv:2101.03961.
#include "upmoe/routing/registry.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class Switch final : public TopkRouter {
 public:
  using Options = TopkOptions;
  static std::int64_t per_token(const RouterShape& /*shape*/) { return 1; }
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options({.sums_to_one = false, .sum_at_start = uniform_share(shape)}, options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.by = {"qwen2_moe (num_experts_per_tok = 1, norm_topk_prob = false)"}};
  }
  Switch(const RouterShape& shape, const Options& options) : TopkRouter(shape, options) {}

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    return choose_of_softmax(logits_TE, pick, /*renormalise=*/false);
  }
};

}  // namespace

RouterInfo switch_() {
  return info<Switch>("switch", "the one expert of the largest probability, which is its weight",
                      "p = softmax(z); S = argmax(p); g = p_S", "arXiv:2101.03961");
}

}  // namespace upmoe::routing
