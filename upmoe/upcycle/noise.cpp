// Random-noise upcycling: copy, then add noise to a share of the neurons, chosen for each matrix on its own,
// as the code published with Drop-Upcycling does (its sigma is absolute, 0.02).  arXiv:2502.19261,
// conversions/noise_upcycling.py.
#include <cmath>

#include "upmoe/random/sample.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::upcycle {
namespace {

class Noise final : public Method {
 public:
  struct Options {
    double ratio = 0.5;
    double sigma = 0.02;
    Choice scale{"absolute", {"absolute", "relative"}};
    void visit(auto&& field) {
      field(ratio, "ratio",
            "share of each expert's neurons that is re-initialised (drop) or gets noise (noise), 0 to 1");
      field(sigma, "sigma", "noise: standard deviation of the noise");
      field(scale, "scale",
            "noise: whether sigma is absolute, or relative to the standard deviation of each matrix");
    }
  };

  explicit Noise(const Options& options)
      : ratio_(options.ratio), sigma_(options.sigma), relative_(options.scale.value == "relative") {
    require_asked(0 <= ratio_ && ratio_ <= 1, "noise: ratio is {}, expected 0 to 1", ratio_);
    require_asked(0 <= sigma_ && sigma_ <= 1e6, "noise: sigma is {}, expected 0 to 1e6", sigma_);
  }

  std::string changes_function() const override {
    return ratio_ == 0 || sigma_ == 0
               ? ""
               : fmt::format("noise is added to {:g} % of each expert's neurons", 100 * ratio_);
  }

  Reads reads() const override {
    return {.weights = true, .moments = relative_ && ratio_ > 0 && sigma_ > 0, .own_place = true};
  }

  MoeLayer convert(const DenseLayer& layer, const MoeShape& shape, const Rng& key) const override {
    const auto disturbed =
        static_cast<std::int64_t>(std::floor(ratio_ * static_cast<double>(shape.expert_size)));
    return {.draft = [this, &layer, size = shape.expert_size, key, disturbed](std::int64_t e,
                                                                              Matrix matrix) -> Draft {
      if (disturbed == 0 || sigma_ == 0) return Copy{};
      const Rng mine = key.at("expert").at(static_cast<std::uint64_t>(e)).at(matrix_name(matrix));
      const double sigma = relative_ ? sigma_ * layer.moments(matrix).of_all().deviation() : sigma_;
      return Disturb{choose(mine.at("neurons"), disturbed, size), {mine.at("values"), 0.0, sigma}};
    }};
  }

 private:
  double ratio_, sigma_;
  bool relative_;
};

}  // namespace

MethodInfo noise() {
  return method_info<Noise>(
      "noise", "copy, then add noise to a share of the neurons",
      "W_e = W outside S; W + N(0, sigma^2) inside; |S| = floor(ratio * d), drawn for each matrix",
      "the noise baseline of Drop-Upcycling, arXiv:2502.19261");
}

}  // namespace upmoe::upcycle
