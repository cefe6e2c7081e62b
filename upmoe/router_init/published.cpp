// The initialisations of the code published with Drop-Upcycling (arXiv:2502.19261, --init_method), by its
// names. r is uniform in [0, 1); means are taken over the whole matrix, as there.
#include <cmath>
#include <numeric>

#include "upmoe/random/normal.h"
#include "upmoe/random/sample.h"
#include "upmoe/router_init/registry.h"

namespace upmoe::router_init {
namespace {

std::vector<float> uniform_EH(const RouterPlace& place, const Rng& key) {
  std::vector<float> weight_EH(static_cast<std::size_t>(place.E * place.H));
  uniforms(key, 0, weight_EH);
  return weight_EH;
}

std::vector<float> centred_EH(const RouterPlace& place, const Rng& key, double scale) {
  std::vector<float> weight_EH = uniform_EH(place, key);
  const double mean =
      std::accumulate(weight_EH.begin(), weight_EH.end(), 0.0) / static_cast<double>(weight_EH.size());
  for (float& weight : weight_EH) weight = static_cast<float>((weight - mean) * scale);
  return weight_EH;
}

std::vector<float> normal_EH(const RouterPlace& place, const Rng& key, float sigma) {
  std::vector<float> weight_EH(static_cast<std::size_t>(place.E * place.H));
  normals(key, 0, 0.0f, sigma, weight_EH);
  return weight_EH;
}

std::vector<float> normal_002_EH(const RouterPlace& place, const Rng& key) {
  return normal_EH(place, key, 0.02f);
}
std::vector<float> normal_028_EH(const RouterPlace& place, const Rng& key) {
  return normal_EH(place, key, 0.2886751f);
}
std::vector<float> mean0_EH(const RouterPlace& place, const Rng& key) { return centred_EH(place, key, 1.0); }
std::vector<float> rand_002_EH(const RouterPlace& place, const Rng& key) {
  return centred_EH(place, key, 0.02 * std::sqrt(12.0));
}

template <auto kDraw>
class Published final : public RouterInit {
 public:
  using Options = NoOptions;
  explicit Published(Options /*options*/) {}
  std::vector<float> weight_EH(const RouterPlace& place, const Rng& key) const override {
    return kDraw(place, key);
  }
};

template <auto kDraw>
RouterInitInfo published(const char* name, const char* summary, const char* formula) {
  return router_init_info<Published<kDraw>>(name, summary, formula,
                                            "the code of Drop-Upcycling, arXiv:2502.19261");
}

}  // namespace

RouterInitInfo torch_rand() {
  return published<uniform_EH>("torch_rand", "uniform in [0, 1): nearly one-hot routing at common widths",
                               "r");
}
RouterInitInfo torch_rand_mean0() {
  return published<mean0_EH>("torch_rand_mean0", "the same, less its mean", "r - mean(r)");
}
RouterInitInfo torch_rand_002() {
  return published<rand_002_EH>("torch_rand_002", "uniform with mean 0 and deviation 0.02",
                                "(r - mean(r)) * 0.02 * sqrt(12)");
}
RouterInitInfo torch_normal_002() {
  return published<normal_002_EH>("torch_normal_002", "normal with deviation 0.02", "N(0, 0.02^2)");
}
RouterInitInfo torch_normal_028() {
  return published<normal_028_EH>("torch_normal_028", "normal with the deviation of torch_rand, 1/sqrt(12)",
                                  "N(0, 0.2886751^2)");
}

}  // namespace upmoe::router_init
