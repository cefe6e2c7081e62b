// Drop-Upcycling: copy the FFN to every expert, then re-draw a share of its neurons with the mean and
// deviation of what they replace.  Nakamura et al., arXiv:2502.19261.
#include <cmath>

#include "upmoe/random/sample.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::upcycle {
namespace {

class Drop final : public Method {
 public:
  struct Options {
    double ratio = 0.5;
    Choice indices{"shared", {"shared", "per-matrix"}};
    void visit(auto&& field) {
      field(ratio, "ratio",
            "share of each expert's neurons that is re-initialised (drop) or gets noise (noise), 0 to 1");
      field(indices, "indices",
            "drop: re-initialise the same neurons in gate, up and down (the paper), or others in each (the "
            "published code)");
    }
  };

  explicit Drop(const Options& options) : ratio_(options.ratio), shared_(options.indices.value == "shared") {
    require_asked(0 <= ratio_ && ratio_ <= 1, "drop: ratio is {}, expected 0 to 1", ratio_);
  }

  std::string changes_function() const override {
    return ratio_ == 0 ? "" : fmt::format("{:g} % of each expert's neurons are re-initialised", 100 * ratio_);
  }

  Reads reads() const override { return {.weights = true, .moments = ratio_ > 0, .own_place = true}; }

  MoeLayer convert(const DenseLayer& layer, const MoeShape& shape, const Rng& key) const override {
    // The published code truncates r * d; so does the paper's floor.
    const auto dropped =
        static_cast<std::int64_t>(std::floor(ratio_ * static_cast<double>(shape.expert_size)));
    return {.draft = [this, &layer, size = shape.expert_size, key, dropped](std::int64_t e,
                                                                            Matrix matrix) -> Draft {
      if (dropped == 0) return Copy{};
      const Rng expert = key.at("expert").at(static_cast<std::uint64_t>(e)),
                mine = expert.at(matrix_name(matrix));
      std::vector<std::int32_t> neurons = choose((shared_ ? expert : mine).at("neurons"), dropped, size);
      const Moments replaced = layer.moments(matrix).of_neurons(neurons);
      return Redraw{std::move(neurons), {mine.at("values"), replaced.mean, replaced.deviation()}};
    }};
  }

 private:
  double ratio_;
  bool shared_;
};

}  // namespace

MethodInfo drop() {
  return method_info<Drop>(
      "drop", "copy, then re-initialise a share of the neurons with the statistics of what they replace",
      "W_e = W outside S_e; N(mean(W[S_e]), std(W[S_e])^2) inside; |S_e| = floor(ratio * d)",
      "Drop-Upcycling, arXiv:2502.19261");
}

}  // namespace upmoe::upcycle
