#include "upmoe/routing/score.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/softplus.h>

#include <cmath>
#include <numbers>

#include "upmoe/base/error.h"

namespace upmoe::routing {
namespace {

// Of one expert while all logits are 0.
double at_start(Score what, std::int64_t experts) {
  switch (what) {
    case Score::softmax:
      return 1 / static_cast<double>(experts);
    case Score::sigmoid:
      return 0.5;
    case Score::sqrt_softplus:
      return std::sqrt(std::numbers::ln2);
  }
  fail("there is no score {}", static_cast<int>(what));
}

}  // namespace

at::Tensor score(Score what, const at::Tensor& logits_TE) {
  constexpr double kLeast = 1e-30;  // the slope of a root is infinite at 0, where softplus ends in float32
  switch (what) {
    case Score::softmax:
      return logits_TE.softmax(/*dim=*/-1);
    case Score::sigmoid:
      return logits_TE.sigmoid();
    case Score::sqrt_softplus:
      return at::softplus(logits_TE).clamp_min(kLeast).sqrt();
  }
  fail("there is no score {}", static_cast<int>(what));
}

void WeightOptions::check(std::string_view router) const {
  require_asked(0 < scale && scale <= 1000, "{}: scale is {}, expected above 0 and at most 1000", router,
                scale);
}

std::string WeightOptions::as_config(const std::string& begun) const {
  return fmt::format("{}, norm_topk_prob = {}, routed_scaling_factor = {})", begun, renormalise, scale);
}

at::Tensor weights(const at::Tensor& score_TK, const WeightOptions& options) {
  constexpr double kNeverZero = 1e-20;  // as in DeepSeek-V3
  const at::Tensor weight_TK =
      options.renormalise ? score_TK / (score_TK.sum(/*dim=*/-1, /*keepdim=*/true) + kNeverZero) : score_TK;
  return options.scale == 1 ? weight_TK : weight_TK * options.scale;
}

RouterTraits with_weights(RouterTraits traits, Score what, const WeightOptions& options,
                          const RouterShape& shape) {
  traits.sums_to_one = options.renormalise && options.scale == 1;
  traits.sum_at_start =
      options.scale *
      (options.renormalise ? 1 : static_cast<double>(shape.per_token) * at_start(what, shape.experts));
  return traits;
}

}  // namespace upmoe::routing
