// From scratch: nothing of the dense model but its shape. What transformers draws for a new Mixtral
// (_init_weights): matrices and embeddings N(0, initializer_range^2), norms 1.  The baseline that every
// upcycling has to beat.
#include "upmoe/upcycle/registry.h"

namespace upmoe::upcycle {
namespace {

class Scratch final : public Method {
 public:
  using Options = NoOptions;
  explicit Scratch(Options /*options*/) {}

  std::string changes_function() const override { return "all weights are re-initialised"; }

  Reads reads() const override { return {.weights = false, .moments = false}; }

  MoeLayer convert(const DenseLayer& layer, const MoeShape& /*shape*/, const Rng& key) const override {
    return {.draft = [sigma = layer.config.initializer_range, key](std::int64_t e, Matrix matrix) -> Draft {
      return Draw{key.at("expert").at(static_cast<std::uint64_t>(e)).at(matrix_name(matrix)).at("values"),
                  0.0, sigma};
    }};
  }

  Draft weight(const DenseWeight& weight, const DenseConfig& config, const Rng& key) const override {
    if (weight.role == Role::norm || weight.role == Role::ffn_norm) return Constant{1.0f};
    return Draw{key.at("values"), 0.0, config.initializer_range};
  }
};

}  // namespace

MethodInfo scratch() {
  return method_info<Scratch>("scratch", "keep nothing but the shape: the baseline",
                              "W = N(0, initializer_range^2), norms 1",
                              "transformers, modeling_mixtral.py (_init_weights)");
}

}  // namespace upmoe::upcycle
