// Balance without a loss: the choice of experts is by score + b, the weights by the score alone, and after
// each optimizer step the bias b of an expert that had fewer tokens than the average is raised, of one that
// had more lowered. So nothing but the language model's loss reaches the router's weight. Use it with many
// experts, or where a balancing loss costs quality. Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy
// for Mixture-of-Experts", arXiv:2408.15664; with groups, DeepSeek-V3, arXiv:2412.19437.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numbers>

#include "upmoe/base/error.h"
#include "upmoe/routing/groups.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/score.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

class BiasTopk final : public TopkRouter {
 public:
  struct Options : TopkOptions, WeightOptions {
    Choice score{"sigmoid", {"sigmoid", "softmax", "sqrt_softplus"}};
    Choice update{"sign", {"sign", "proportional"}};
    double rate = 1e-3;
    std::int64_t warmup = 0, steps = 0;
    Choice decay{"linear", {"linear", "cosine"}};
    bool centre = false;
    std::int64_t groups = 0, kept_groups = 0;
    void visit(auto&& field) {
      field(score, "score", "what is made of the logits");
      field(update, "update",
            "by the rate, or by the rate times how far an expert's load is from the average, of which it is "
            "the unit");
      field(rate, "rate", "of the bias, for each optimizer step");
      field(warmup, "warmup", "steps over which the rate grows to its value");
      field(steps, "steps", "steps after which the rate is 0 and the bias stays; 0: it never falls");
      field(decay, "decay", "how the rate falls from `warmup` to `steps`");
      field(centre, "centre", "subtract the mean of each update, which changes no choice");
      field(groups, "groups", "groups of neighbouring experts; 0 or 1: none");
      field(kept_groups, "kept-groups",
            "groups that a token may use: those of the largest sums of their two best score + b; 0: half of "
            "them, or as many as hold k experts");
      WeightOptions::visit(field);
      TopkOptions::visit(field);
    }
    Score kind() const {
      if (score.value == "softmax") return Score::softmax;
      return score.value == "sigmoid" ? Score::sigmoid : Score::sqrt_softplus;
    }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options(with_weights({.balances_itself = true}, options.kind(), options, shape), options);
  }
  static Holders holders(const Options& options);
  BiasTopk(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options),
        options_(options),
        groups_(resolve({.number = options.groups, .kept = options.kept_groups}, shape, "bias_topk")),
        bias_E_(at::zeros({shape.experts}, at::TensorOptions(at::kFloat).device(shape.device))) {
    options.check("bias_topk");
    require_asked(options.rate >= 0, "bias_topk: rate is {}, expected 0 or more", options.rate);
    require_asked(options.warmup >= 0, "bias_topk: warmup is {}, expected 0 or more", options.warmup);
    require_asked(options.steps == 0 || options.steps > options.warmup,
                  "bias_topk: steps is {}, expected more than the {} of warmup, or 0", options.steps,
                  options.warmup);
  }

  void after_step(const Step& step) override;
  std::vector<State> buffers() override { return {{"bias", &bias_E_}}; }

 private:
  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor score_TE = score(options_.kind(), logits_TE);
    const at::Tensor expert_TK = pick(limit_groups(score_TE + bias_E_, groups_));
    return from_topk(expert_TK, weights(score_TE.gather(/*dim=*/-1, expert_TK), options_), score_TE);
  }
  double rate(std::int64_t step) const;

  Options options_;
  Groups groups_;
  at::Tensor bias_E_;
};

void BiasTopk::after_step(const Step& step) {
  // In whole numbers: whether a load is the average must not be a matter of rounding.
  const at::Tensor total = step.load_X.sum(), missing_E = total - shape_.experts * step.load_X;
  at::Tensor change_E = options_.update.value == "sign"
                            ? missing_E.sign().to(at::kFloat)
                            : (missing_E.to(at::kDouble) / total.clamp_min(1).to(at::kDouble)).to(at::kFloat);
  if (options_.centre) change_E = change_E - change_E.mean();
  bias_E_.add_(change_E, rate(step.step));
}

double BiasTopk::rate(std::int64_t step) const {
  const auto part = [](std::int64_t of, std::int64_t whole) {
    return static_cast<double>(of) / static_cast<double>(whole);
  };
  if (step < options_.warmup) return options_.rate * part(step + 1, options_.warmup);
  if (options_.steps == 0) return options_.rate;
  const double done = std::min(1.0, part(step - options_.warmup, options_.steps - options_.warmup));
  return options_.rate *
         (options_.decay.value == "linear" ? 1 - done : (1 + std::cos(std::numbers::pi * done)) / 2);
}

Holders BiasTopk::holders(const Options& options) {
  const bool grouped = options.groups > 1;
  switch (options.kind()) {
    case Score::sigmoid:
      if (grouped)
        return {.by = {options.as_config(
                    "glm4_moe of transformers 5.8 or newer (e_score_correction_bias = b, n_group = groups, "
                    "topk_group = kept-groups")}};
      return {.by = {options.as_config("glm4_moe (e_score_correction_bias = b, n_group = topk_group = 1")}};
    case Score::softmax:
      if (!grouped && options.renormalise && options.scale == 1)
        return {.by = {"ernie4_5_moe (moe_statics.e_score_correction_bias = b, moe_norm_min = 1e-20)"}};
      return {
          .why_not =
              "ernie4_5_moe computes it, but has no groups, always divides by the sum, and knows no scale"};
    case Score::sqrt_softplus:
      return {.why_not = "deepseek_v4 computes it, but its attention is not Llama's"};
  }
  fail("there is no score {}", options.score.value);
}

}  // namespace

RouterInfo bias_topk() {
  return info<BiasTopk>(
      "bias_topk", "k experts by score plus a bias that balances the load; weights by the score",
      "s = sigmoid(z), softmax(z) or sqrt(softplus(z)); S = topk(s + b); g = scale * s_S / (sum(s_S) + "
      "1e-20), "
      "or scale * s_S without renormalise; after a step b_i += rate * sign(mean(n) - n_i), or "
      "rate * (mean(n) - n_i) / mean(n)",
      "arXiv:2408.15664");
}

}  // namespace upmoe::routing
