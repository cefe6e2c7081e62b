#pragma once
#include "upmoe/routing/router.h"

// Scores of which each is taken alone or with the others, and weights made of the K chosen ones. Shape
// letters: T tokens, E experts, K experts of one token.
namespace upmoe::routing {

enum class Score { softmax, sigmoid, sqrt_softplus };

at::Tensor score(Score what, const at::Tensor& logits_TE);

struct WeightOptions {
  bool renormalise = true;
  double scale = 1;

  void visit(auto&& field) {
    field(renormalise, "renormalise", "divide a token's k weights by their sum");
    field(scale, "scale", "factor on the weights, routed_scaling_factor");
  }
  void check(std::string_view router) const;
  // "glm4_moe (n_group = 1" with norm_topk_prob, routed_scaling_factor and the ")".
  std::string as_config(const std::string& begun) const;
};

// Of the scores of a token's experts.
at::Tensor weights(const at::Tensor& score_TK, const WeightOptions& options);

// `traits` with what these weights sum to.
RouterTraits with_weights(RouterTraits traits, Score what, const WeightOptions& options,
                          const RouterShape& shape);

}  // namespace upmoe::routing
