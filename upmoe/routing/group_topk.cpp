// A softmax over all experts, and the K largest within a token's best groups of experts: with the experts of
// a group on one machine, a token is sent to few of them. A group's score is its largest probability, as in
// DeepSeek-V2 (renormalise=false), or the sum of its two largest. Without such a placement the limit only
// takes choice away. DeepSeek-AI, arXiv:2405.04434; transformers, modeling_deepseek_v2.py.
#include <ATen/TensorOperators.h>

#include "upmoe/base/error.h"
#include "upmoe/routing/groups.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/score.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class GroupTopk final : public TopkRouter {
 public:
  struct Options : TopkOptions, WeightOptions {
    std::int64_t groups = 0, kept_groups = 0, best = 1;
    void visit(auto&& field) {
      field(
          groups, "groups",
          "groups of neighbouring experts; 0: up to 8, of two experts or more, so that half hold k experts");
      field(kept_groups, "kept-groups",
            "groups that a token may use; 0: half of them, or as many as hold k experts");
      field(best, "best", "so many of a group's largest scores are summed to its own: 1 or 2");
      WeightOptions::visit(field);
      TopkOptions::visit(field);
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options(with_weights({}, Score::softmax, options, shape), options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "deepseek_v2 computes it, but its attention is not Llama's"};
  }
  GroupTopk(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), options_(options) {
    options.check("group_topk");
    require_asked(options.best == 1 || options.best == 2, "group_topk: best is {}, expected 1 or 2",
                  options.best);
    groups_ = resolve({.number = options.groups == 0 ? most_groups(shape) : options.groups,
                       .kept = options.kept_groups,
                       .best = options.best},
                      shape, "group_topk");
  }

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor score_TE = score(Score::softmax, logits_TE);
    const at::Tensor expert_TK = pick(limit_groups(score_TE, groups_));
    return from_topk(expert_TK, weights(score_TE.gather(/*dim=*/-1, expert_TK), options_), score_TE);
  }

  Options options_;
  Groups groups_;
};

}  // namespace

RouterInfo group_topk() {
  return info<GroupTopk>("group_topk", "the k largest of a softmax within a token's best groups of experts",
                         "p = softmax(z); a_j = sum of the best largest p of group j; S = topk of p in the "
                         "kept groups of largest a; g = scale * p_S / sum(p_S), or scale * p_S without "
                         "renormalise",
                         "arXiv:2405.04434; transformers, modeling_deepseek_v2.py");
}

}  // namespace upmoe::routing
