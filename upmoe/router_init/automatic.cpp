// Normal weights whose deviation is chosen so that the logits start near a given one. The router's input is
// RMSNorm(h) * gamma, of length |gamma| if h is even, so sigma * |gamma| estimates it without data
// (docs/numerics.md says how well).
#include <cmath>

#include "upmoe/random/normal.h"
#include "upmoe/router_init/registry.h"

namespace upmoe::router_init {
namespace {

class Automatic final : public RouterInit {
 public:
  struct Options {
    double logit_std = 0.5;
    void visit(auto&& field) {
      field(logit_std, "logit-std", "auto: standard deviation of the router logits at initialisation");
    }
  };
  explicit Automatic(const Options& options) : logit_std_(options.logit_std) {
    require_asked(0 < logit_std_ && logit_std_ <= 100,
                  "auto: logit-std is {}, expected above 0 and at most 100", logit_std_);
  }
  std::vector<float> weight_EH(const RouterPlace& place, const Rng& key) const override {
    require(place.gamma_length != 0,
            "router initialisation 'auto': the norm in front of the router is all zeros, so no scale follows "
            "from it; "
            "choose another --router-init");
    const auto sigma = static_cast<float>(logit_std_ / place.gamma_length);
    // At the ends of what a float can hold, weights would be infinite, or zero more often than not.
    require(std::isnormal(sigma) && std::isnormal(8 * sigma),
            "router initialisation 'auto': the norm in front of the router has length {:g}, so no scale "
            "follows from it "
            "that float32 can hold; choose another --router-init",
            place.gamma_length);
    std::vector<float> weight_EH(static_cast<std::size_t>(place.E * place.H));
    normals(key, 0, 0.0f, sigma, weight_EH);
    return weight_EH;
  }

 private:
  double logit_std_;
};

}  // namespace

RouterInitInfo automatic() {
  return router_init_info<Automatic>(
      "auto", "normal, scaled so that the router logits have a given standard deviation",
      "N(0, (logit-std / |gamma|)^2), gamma: the norm in front of the router", "upmoe, docs/numerics.md");
}

}  // namespace upmoe::router_init
