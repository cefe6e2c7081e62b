// Uniform within +-1/sqrt(H): what torch.nn.Linear starts with (kaiming_uniform with a = sqrt(5)), and
// mergekit's uniform_random.
#include <cmath>

#include "upmoe/random/sample.h"
#include "upmoe/router_init/registry.h"

namespace upmoe::router_init {
namespace {

class Uniform final : public RouterInit {
 public:
  using Options = NoOptions;
  explicit Uniform(Options /*options*/) {}
  std::vector<float> weight_EH(const RouterPlace& place, const Rng& key) const override {
    std::vector<float> weight_EH(static_cast<std::size_t>(place.E * place.H));
    uniforms(key, 0, weight_EH);
    const double bound = 1.0 / std::sqrt(static_cast<double>(place.H));
    for (float& weight : weight_EH) weight = static_cast<float>((2.0 * weight - 1.0) * bound);
    return weight_EH;
  }
};

}  // namespace

RouterInitInfo uniform() {
  return router_init_info<Uniform>("uniform", "uniform within 1/sqrt(h), as torch.nn.Linear starts",
                                   "U(-1/sqrt(h), 1/sqrt(h))", "torch.nn.Linear; mergekit's uniform_random");
}

}  // namespace upmoe::router_init
