// Orthonormal rows: no two experts compete for the same direction.  Saxe et al., arXiv:1312.6120.
#include <cmath>
#include <numeric>

#include "upmoe/random/normal.h"
#include "upmoe/router_init/registry.h"

namespace upmoe::router_init {
namespace {

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

class Orthogonal final : public RouterInit {
 public:
  using Options = NoOptions;
  explicit Orthogonal(Options /*options*/) {}

  // Gram-Schmidt on normal rows in double precision, each row swept twice ("twice is enough", Kahan).
  std::vector<float> weight_EH(const RouterPlace& place, const Rng& key) const override {
    require(place.E <= place.H,
            "router initialisation 'orthogonal': {} experts can't be orthogonal in {} dimensions", place.E,
            place.H);
    const auto H = static_cast<std::size_t>(place.H);
    std::vector<std::vector<double>> rows;
    std::vector<float> drawn_H(H), weight_EH;
    for (std::int64_t e = 0; e < place.E; ++e) {
      normals(key, static_cast<std::uint64_t>(e * place.H), drawn_H);
      std::vector<double> row(drawn_H.begin(), drawn_H.end());
      for (int sweep = 0; sweep < 2; ++sweep) {
        for (const std::vector<double>& other : rows) {
          const double along = dot(row, other);
          for (std::size_t i = 0; i < H; ++i) row[i] -= along * other[i];
        }
        const double length = std::sqrt(dot(row, row));
        for (double& x : row) x /= length;
      }
      weight_EH.insert(weight_EH.end(), row.begin(), row.end());
      rows.push_back(std::move(row));
    }
    return weight_EH;
  }
};

}  // namespace

RouterInitInfo orthogonal() {
  return router_init_info<Orthogonal>("orthogonal", "rows of length 1 at right angles",
                                      "Q^T of QR(N(0, 1)), h x E",
                                      "Saxe et al., arXiv:1312.6120; torch.nn.init.orthogonal_");
}

}  // namespace upmoe::router_init
