#pragma once
#include "upmoe/balance/loss.h"

namespace upmoe::balance {

// What most balancing losses are: the number of experts times the sum over experts of the share of choices
// f_i times the mean probability P_i. The gradient goes through P alone and lowers the probability of experts
// that have more than their share. What `choices` counts them by: 1, or k.
class LoadTimesProbability final : public Loss {
 public:
  struct Options {
    double extra = 1;
    void visit(auto&& field) {
      field(extra, "extra", "weight of the experts that compute nothing (MoE++ has 0.75)");
    }
  };
  LoadTimesProbability(LossShape shape, Options options, double choices);

  at::Tensor of_tokens(const routing::Routing& routing) const override;
  at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const override;

 private:
  LossShape shape_;
  Options options_;
  double choices_;
};

// The probabilities of a token: its scores, divided by their sum. [T, X]
at::Tensor probabilities(const routing::Routing& routing);

// Why a loss that works on these can't be trained with a router.
std::string why_no_probabilities(const routing::RouterTraits& router);

// A LossInfo of it; `by_k`: f counts each of a token's k choices as 1/k, so that the balanced value is 1.
LossInfo load_times_probability(const std::string& name, const std::string& summary,
                                const std::string& formula, const std::string& source, bool by_k);

}  // namespace upmoe::balance
