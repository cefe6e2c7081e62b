// Beside the E experts there are some that compute nothing, and a token may choose them instead: zero experts
// give 0, copies give x, constant ones a mixture of x and a learned vector. So a token that is easy costs
// less. MoE++ (Jin et al., arXiv:2410.07348) has all three kinds; LongCat-Flash (arXiv:2509.01322) has copies
// alone, without renormalise. Their rows of the router are parameters that start near 0: at first a token
// chooses them where most of its logits are negative, and of equal logits that of a real expert wins, so an
// upcycled model begins nearly as without them. Capacity, where asked for, is shared with them and counts for
// them too.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "upmoe/ops/ops.h"
#include "upmoe/routing/parameter.h"
#include "upmoe/routing/registry.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/topk_router.h"

// T tokens, H hidden size, E experts, Z those that compute nothing (zero, then copy, then constant), C
// constant ones, X = E + Z.
namespace upmoe::routing {
namespace {

class ZeroExperts final : public TopkRouter {
 public:
  struct Options : TopkOptions {
    std::int64_t zero = 1, copy = 1, constant = 1;
    bool renormalise = true;
    double scale = 1;
    void visit(auto&& field) {
      field(zero, "zero", "experts that give 0");
      field(copy, "copy", "experts that give what they get");
      field(constant, "constant", "experts that give a mixture of what they get and a learned vector");
      field(renormalise, "renormalise", "divide a token's k weights by their sum");
      field(scale, "scale", "factor on the weights");
      TopkOptions::visit(field);
    }
    std::int64_t all() const { return zero + copy + constant; }
  };
  static RouterTraits traits(const RouterShape& shape, const Options& options) {
    return with_options({.sums_to_one = false, .sum_at_start = sum_at_start(shape, options)}, options);
  }
  static Holders holders(const Options& options) {
    if (options.copy == 0 && options.constant == 0)
      return {.why_not =
                  "no released architecture has experts that give 0, unless they are written out with "
                  "weights of zero"};
    return {.why_not =
                "of the released architectures longcat_flash alone has experts that compute nothing, and "
                "its attention is another"};
  }
  ZeroExperts(const RouterShape& shape, const Options& options)
      : TopkRouter(shape, options), options_(options) {
    constexpr std::int64_t kMost = 4096;
    for (const auto& [name, number] :
         {std::pair{"zero", options.zero}, {"copy", options.copy}, {"constant", options.constant}})
      require_asked(0 <= number && number <= kMost, "zero_experts: {} is {}, expected 0 to {}", name, number,
                    kMost);
    require_asked(options.all() > 0,
                  "zero_experts: zero, copy and constant are all 0, expected at least one");
    require_asked(options.scale > 0, "zero_experts: scale is {}, expected above 0", options.scale);
    constexpr double kSmall = 0.01;  // of the standard deviation that a router's logits may have
    gate_ZH_ = normal_parameter(shape, "gate", {options.all(), shape.hidden},
                                kSmall / std::sqrt(static_cast<double>(shape.hidden)));
    mix_C2H_ = zero_parameter(shape, {options.constant, 2, shape.hidden});
    vector_CH_ = zero_parameter(shape, {options.constant, shape.hidden});
  }
  std::vector<State> parameters() override {
    if (options_.constant == 0) return {{"gate", &gate_ZH_}};
    return {{"gate", &gate_ZH_}, {"mix", &mix_C2H_}, {"vector", &vector_CH_}};
  }

 private:
  // The logits of real experts are as often above 0, where those of the others are, as below it; the sum of
  // the weights that stay with them goes by how many of E are above.
  static double sum_at_start(const RouterShape& shape, const Options& options) {
    const auto E = static_cast<double>(shape.experts), k = static_cast<double>(shape.per_token);
    double elsewhere = 0, chance = std::pow(0.5, E);  // of `above` experts
    for (std::int64_t above = 0; above < shape.per_token; ++above) {
      elsewhere += chance * static_cast<double>(std::min(options.all(), shape.per_token - above));
      chance *= (E - static_cast<double>(above)) / static_cast<double>(above + 1);
    }
    return options.scale * (k - elsewhere) /
           (options.renormalise ? k : E + static_cast<double>(options.all()));
  }

  at::Tensor logits_of(const Call& call) const override {
    const at::Tensor z_TE = TopkRouter::logits_of(call);
    const at::ScalarType wide = z_TE.scalar_type();
    return at::cat({z_TE, ops::linear(call.x_TH.to(wide), gate_ZH_.to(wide))}, /*dim=*/1);
  }

  Routing choose(const at::Tensor& logits_TX, const Pick& pick) const override {
    Routing out = choose_of_softmax(logits_TX, pick, options_.renormalise);
    out.weight_N = out.weight_N * options_.scale;
    return out;
  }

  Routing decide(const Call& call, const at::Tensor& logits_TX) const override {
    const Routing all = TopkRouter::decide(call, logits_TX);
    const at::Tensor weight_TX =
        at::zeros_like(all.score_TX).index_put({all.token_N, all.expert_N}, all.weight_N);
    Routing out = keep_pairs(all, all.expert_N < shape_.experts);
    out.extra_TH =
        extra(call.x_TH.to(weight_TX.scalar_type()), weight_TX.narrow(1, shape_.experts, options_.all()));
    return out;
  }

  at::Tensor extra(const at::Tensor& x_TH, const at::Tensor& weight_TZ) const {
    const at::ScalarType wide = x_TH.scalar_type();
    at::Tensor out =
        x_TH * weight_TZ.narrow(1, options_.zero, options_.copy).sum(/*dim=*/1, /*keepdim=*/true);
    for (std::int64_t c = 0; c < options_.constant; ++c) {
      const at::Tensor mix_T2 = ops::linear(x_TH, mix_C2H_.select(0, c).to(wide)).softmax(/*dim=*/-1),
                       given_TH = mix_T2.narrow(1, 0, 1) * x_TH +
                                  mix_T2.narrow(1, 1, 1) * vector_CH_.select(0, c).to(wide);
      out = out + given_TH * weight_TZ.narrow(1, options_.zero + options_.copy + c, 1);
    }
    return out;
  }

  Options options_;
  at::Tensor gate_ZH_, mix_C2H_, vector_CH_;
};

}  // namespace

RouterInfo zero_experts() {
  return info<ZeroExperts>("zero_experts", "top-k of the experts and of some that compute nothing",
                           "z = x [W; W_Z]^T; p = softmax(z); S = topk(p); g = scale p_S / sum(p_S), or "
                           "scale p_S without renormalise; "
                           "zero: 0; copy: x; constant: a_1 x + a_2 v, a = softmax(W_c x)",
                           "arXiv:2410.07348, arXiv:2509.01322");
}

}  // namespace upmoe::routing
