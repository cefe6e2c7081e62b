// Each expert takes the tokens that it scores highest, the same number for all experts: the load is even by
// construction, and a token has as many experts as want it, maybe none. Here an expert takes its tokens out
// of each sequence, so that what else is in the batch does not matter. What a token gets depends on the
// tokens behind it, in evaluation too: for text that is read, not for text that is generated, and a language
// model that was trained with it has looked ahead. Zhou et al., "Mixture-of-Experts with Expert Choice
// Routing", arXiv:2202.09368.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/sequences.h"

// S sequences, T tokens, E experts, G groups that are ranked apart: the real tokens and the padding of each
// sequence.
namespace upmoe::routing {
namespace {

class ExpertChoice final : public Router {
 public:
  struct Options {
    double capacity_factor = 0;
    void visit(auto&& field) {
      field(capacity_factor, "capacity-factor",
            "mean number of experts of a token: of the tokens of a sequence each expert takes "
            "ceil(capacity-factor * tokens / experts), at most all; 0: k");
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    const Promises ahead{.causal = false};
    return {.evaluation = ahead,
            .training = ahead,
            .token_independent = false,
            .sums_to_one = false,
            .ragged = true,
            .even_load = true,
            .balances_itself = true,
            .sum_at_start = share(shape, options)};
  }
  static Holders holders(const Options& /*options*/) {
    return {.why_not = "no released architecture lets the experts choose, and none could generate with it"};
  }
  ExpertChoice(const RouterShape& shape, const Options& options) : share_(share(shape, options)) {
    require_asked(options.capacity_factor >= 0, "expert_choice: capacity-factor is {}, expected 0 or more",
                  options.capacity_factor);
  }

 private:
  // Of the tokens of a sequence, that an expert takes.
  static double share(const RouterShape& shape, const Options& options) {
    const auto E = static_cast<double>(shape.experts), k = static_cast<double>(shape.per_token);
    return std::min((options.capacity_factor > 0 ? options.capacity_factor : k) / E, 1.0);
  }

  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    const at::Tensor score_TE = logits_TE.softmax(/*dim=*/-1);
    return from_mask(call.replay_TM.defined() ? mask_of(call.replay_TM, score_TE.size(1))
                                              : choose(call, score_TE.detach()),
                     score_TE, score_TE);
  }

  at::Tensor choose(const Call& call, const at::Tensor& score_TE) const {
    constexpr double kRounding = 1e-9;  // so that a whole number stays what it is
    const auto [S, sequence_T] = sequences_of(call.runs, score_TE.size(0), score_TE.device());
    const at::Tensor pad_T = call.valid_T.defined() ? call.valid_T.logical_not().to(at::kLong)
                                                    : at::zeros_like(sequence_T),
                     group_T = 2 * sequence_T + pad_T,
                     tokens_G =
                         at::zeros({2 * S}, group_T.options()).index_add(0, group_T, at::ones_like(group_T)),
                     begin_G = tokens_G.cumsum(0) - tokens_G,
                     real_G = at::arange(2 * S, group_T.options()).remainder(2) == 0,
                     most_G = (tokens_G.to(at::kDouble) * share_ - kRounding).ceil().clamp_min(1) * real_G;
    // Down each column: sorted by score, then by group; both keep the order of what is equal.
    const at::Tensor by_score_TE = order(score_TE, /*descending=*/true),
                     by_group_TE =
                         order(group_T.index_select(0, by_score_TE.reshape(-1)).view_as(by_score_TE),
                               /*descending=*/false),
                     token_TE = by_score_TE.gather(0, by_group_TE),
                     group_sorted_T1 = std::get<0>(group_T.sort()).unsqueeze(1),
                     rank_T1 = at::arange(score_TE.size(0), group_T.options()).unsqueeze(1) -
                               begin_G.index({group_sorted_T1}),
                     taken_T1 = rank_T1 < most_G.index({group_sorted_T1});
    return at::zeros_like(score_TE, at::kBool).scatter(0, token_TE, taken_T1.expand_as(token_TE));
  }

  static at::Tensor order(const at::Tensor& key_TE, bool descending) {
    return std::get<1>(key_TE.sort(/*stable=*/true, /*dim=*/0, descending));
  }

  double share_;
};

}  // namespace

RouterInfo expert_choice() {
  return info<ExpertChoice>(
      "expert_choice", "each expert takes its best tokens of a sequence",
      "p = softmax(z); S_i = the ceil(c T / E) tokens of a sequence with the largest p_i, "
      "c = capacity-factor or k; g_i = p_i for those",
      "arXiv:2202.09368");
}

}  // namespace upmoe::routing
