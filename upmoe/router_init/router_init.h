#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "upmoe/base/plugin.h"
#include "upmoe/random/key.h"

namespace upmoe {

// Where a router stands: E experts, hidden size H, and the norm in front of it.
struct RouterPlace {
  std::int64_t E = 0, H = 0;
  // Euclidean length of that norm's weight. The router's input x = RMSNorm(h) * gamma has about this length,
  // so a router of deviation sigma gives logits of a deviation near sigma * gamma_length: an estimate without
  // data.
  double gamma_length = 0;
};

// Where a router starts. Gives weight_EH, row-major, in float32; the same place and key always give the same
// bits.
class RouterInit {
 public:
  virtual ~RouterInit() = default;
  virtual std::vector<float> weight_EH(const RouterPlace& place, const Rng& key) const = 0;
  // Why nobody should want it, so that it has to be allowed; empty: nothing speaks against it.
  virtual std::string danger() const { return ""; }
};

using RouterInitInfo = Plugin<RouterInit>;

template <class R>
RouterInitInfo router_init_info(std::string name, std::string summary, std::string formula,
                                std::string source) {
  return plugin<R, RouterInit>(std::move(name), std::move(summary), std::move(formula), std::move(source));
}

}  // namespace upmoe
