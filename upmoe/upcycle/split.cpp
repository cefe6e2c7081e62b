// LLaMA-MoE's partition into independent experts: the neurons of the dense FFN are dealt out, F/E to each of
// E experts, and what the experts give is rescaled by E/K, since only K of them see a token.  Zhu et al.,
// arXiv:2406.16554, section 3; the code's score_scale_factor. The gate's factor is folded into down.
#include <cmath>

#include "upmoe/random/sample.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::upcycle {
namespace {

class Split final : public Method {
 public:
  struct Options {
    Choice order{"random", {"sequential", "random"}};
    double rescale = 0;
    void visit(auto&& field) {
      field(order, "order", "split: assign the neurons to experts in their order, or at random");
      field(rescale, "rescale", "split: factor on the down projection; 0: experts / top-k, as in the paper");
    }
  };

  explicit Split(const Options& options)
      : random_(options.order.value == "random"), rescale_(options.rescale) {
    require_asked(0 <= rescale_ && rescale_ <= 1e6, "split: rescale is {}, expected 0 to 1e6", rescale_);
  }

  std::string changes_function() const override {
    return "an expert has only its part of the neurons, and a token sees only K of the E parts";
  }
  Reads reads() const override { return {.weights = true, .moments = false}; }

  MoeShape shape(const MoeShape& asked, const DenseConfig& config) const override {
    require_asked(config.intermediate_size % asked.experts == 0,
                  "split: {} experts can't share {} neurons equally; choose --experts to divide {}",
                  asked.experts, config.intermediate_size, config.intermediate_size);
    MoeShape made = asked;
    made.expert_size = config.intermediate_size / asked.experts;
    return made;
  }

  MoeLayer convert(const DenseLayer& /*layer*/, const MoeShape& shape, const Rng& key) const override {
    const std::int64_t F = shape.experts * shape.expert_size;
    std::vector<std::int32_t> place_F;  // of each neuron in the deal; empty: its own
    if (random_) place_F = permutation(key.at("neurons"), F);
    const double rescale = rescale_ != 0 ? rescale_ : double(shape.experts) / double(shape.per_token);
    return {.draft = [size = shape.expert_size, F, place_F = std::move(place_F),
                      scale = static_cast<float>(rescale)](std::int64_t e, Matrix matrix) -> Draft {
      Pick pick{.neurons = {}, .scale = matrix == Matrix::down ? scale : 1};
      for (std::int64_t i = 0; i < F; ++i)
        if ((place_F.empty() ? i : place_F[static_cast<std::size_t>(i)]) / size == e)
          pick.neurons.push_back(static_cast<std::int32_t>(i));
      return pick;
    }};
  }

 private:
  bool random_;
  double rescale_;
};

}  // namespace

MethodInfo split() {
  return method_info<Split>(
      "split", "partition the neurons of the dense FFN: E experts of d/E neurons",
      "gate_e = gate[S_e], up_e = up[S_e], down_e = s * down[:, S_e]; S_0, ..., S_E-1 partition the neurons, "
      "|S_e| = d/E; s = E/K",
      "LLaMA-MoE (independent, random), arXiv:2406.16554");
}

}  // namespace upmoe::upcycle
