#include "upmoe/balance/load_times_probability.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include "upmoe/routing/select.h"

namespace upmoe::balance {
namespace {

constexpr double kNone = 1e-20;  // so that a token without any score has probabilities of 0

}  // namespace

at::Tensor probabilities(const routing::Routing& routing) {
  return routing.score_TX / (routing.score_TX.sum(/*dim=*/-1, /*keepdim=*/true) + kNone);
}

std::string why_no_probabilities(const routing::RouterTraits& router) {
  if (!router.choice_is_trained) return "its experts do not depend on anything that is trained";
  if (router.even_load)
    return "it gives all experts the same number of tokens, whatever the probabilities are";
  return "";
}

LoadTimesProbability::LoadTimesProbability(LossShape shape, Options options, double choices)
    : shape_(shape), options_(options), choices_(choices) {
  require_asked(options.extra >= 0, "extra is {}, expected 0 or more", options.extra);
}

at::Tensor LoadTimesProbability::of_tokens(const routing::Routing& routing) const {
  const at::Tensor p_TX = probabilities(routing);
  return at::cat({p_TX, routing::mask_of(routing.chosen_TM, p_TX.size(1)).to(p_TX.scalar_type())}, /*dim=*/1);
}

at::Tensor LoadTimesProbability::value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const {
  const std::int64_t X = sum_SM.size(1) / 2;
  const at::Tensor tokens_S1 = tokens_S.unsqueeze(1), mean_SX = sum_SM.narrow(1, 0, X) / tokens_S1,
                   share_SX = sum_SM.narrow(1, X, X) / (tokens_S1 * choices_),
                   weight_X = at::ones({X}, sum_SM.options());
  weight_X.narrow(0, shape_.experts, X - shape_.experts).fill_(options_.extra);
  return static_cast<double>(X) * (share_SX * mean_SX * weight_X).sum(1);
}

LossInfo load_times_probability(const std::string& name, const std::string& summary,
                                const std::string& formula, const std::string& source, bool by_k) {
  using Options = LoadTimesProbability::Options;
  const std::string owner = "balancing loss '" + name + "'";
  LossInfo out{.name = name, .summary = summary, .formula = formula, .source = source};
  out.coefficient = 0.01;
  out.options = describe<Options>();
  out.balanced = [by_k](const LossShape& shape) { return by_k ? 1.0 : static_cast<double>(shape.per_token); };
  out.why_not = why_no_probabilities;
  out.make = [owner, by_k](LossShape shape, const Values& values) -> std::unique_ptr<Loss> {
    return std::make_unique<LoadTimesProbability>(shape, parse<Options>(values, owner),
                                                  by_k ? static_cast<double>(shape.per_token) : 1.0);
  };
  return out;
}

}  // namespace upmoe::balance
