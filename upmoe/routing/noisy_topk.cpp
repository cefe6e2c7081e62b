// Noise of learnt width on the logits: in training the k experts are those of the largest noisy logits, and
// the weights a softmax over these. Each expert's width is a second linear map of the input, so the router
// learns where it wants to try experts out; its Routing says how likely each choice was (chance_TX), which
// the load loss needs and which makes the choice differentiable. Evaluation is topk_softmax. Shazeer et al.,
// "Outrageously Large Neural Networks", arXiv:1701.06538, section 2.1 and appendix A; with the smallest width
// that the authors' code adds.
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/special_ndtr.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "upmoe/base/error.h"
#include "upmoe/routing/noise.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

namespace upmoe::routing {
namespace {

// The probability that an expert is among the k largest if its noise alone is drawn again.
at::Tensor chance(const at::Tensor& logits_TE, const at::Tensor& noisy_TE, const at::Tensor& width_TE,
                  std::int64_t per_token) {
  if (per_token == logits_TE.size(1)) return at::ones_like(logits_TE);
  const at::Tensor largest_TM = noisy_TE.gather(/*dim=*/-1, select_topk(noisy_TE, per_token + 1)),
                   last_in_T1 = largest_TM.narrow(/*dim=*/-1, per_token - 1, 1),
                   first_out_T1 = largest_TM.narrow(/*dim=*/-1, per_token, 1),
                   // the k-th largest of the others
      bar_TE = at::where(noisy_TE > first_out_T1, first_out_T1, last_in_T1);
  return at::special_ndtr((logits_TE - bar_TE) / width_TE);
}

class NoisyTopk final : public TopkRouter {
 public:
  // Of what can be added to a top-k router, capacity alone: a second noise would make the chance a wrong one.
  struct Options : TopkOptions {
    double least = 1e-2;
    void visit(auto&& field) {
      field(least, "least", "added to each width; the paper's formula has none");
      visit_capacity(field);
    }
  };
  static RouterTraits traits(const RouterShape& /*shape*/, const Options& options) {
    return with_options({.draws = true, .has_chance = true}, options);
  }
  static Holders holders(const Options& /*options*/) {
    return {.by = {"mixtral", "qwen2_moe (norm_topk_prob = true)", "granitemoe"}};
  }
  NoisyTopk(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options),
        least_(options.least),
        width_EH_(at::zeros({shape.experts, shape.hidden}, at::TensorOptions(at::kFloat).device(shape.device))
                      .set_requires_grad(true)) {
    require_asked(least_ > 0, "noisy_topk: least is {}, expected above 0", least_);
  }
  std::vector<State> parameters() override { return {{"noise", &width_EH_}}; }

 private:
  Routing decide(const Call& call, const at::Tensor& logits_TE) const override {
    if (!call.training) return TopkRouter::decide(call, logits_TE);
    Call other = call;
    other.gate_EH = width_EH_;
    const at::Tensor width_TE = at::softplus(logits(other)) + least_,
                     noisy_TE = logits_TE + width_TE * draw(call, "noise", Draw::normal, shape_.experts);
    Routing out = TopkRouter::decide(call, noisy_TE);
    out.chance_TX = chance(logits_TE, noisy_TE, width_TE, shape_.per_token);
    return out;
  }

  Routing choose(const at::Tensor& logits_TE, const Pick& pick) const override {
    const at::Tensor expert_TK = pick(logits_TE);
    const at::Tensor weight_TK = logits_TE.gather(/*dim=*/-1, expert_TK).softmax(/*dim=*/-1);
    return from_topk(expert_TK, weight_TK, logits_TE.softmax(/*dim=*/-1));
  }

  double least_;
  at::Tensor width_EH_;
};

}  // namespace

RouterInfo noisy_topk() {
  return info<NoisyTopk>("noisy_topk",
                         "the k largest logits plus noise of learnt width, and a softmax over those",
                         "h = z + normal * (softplus(x W_noise^T) + least) in training, z else; S = topk(h); "
                         "g = softmax(h_S); chance_i = Phi((z_i - k-th largest h of the others) / width_i)",
                         "arXiv:1701.06538");
}

}  // namespace upmoe::routing
