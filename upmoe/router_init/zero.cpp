// All zeros: every logit ties, and top-k breaks ties the same way for every token.
#include "upmoe/router_init/registry.h"

namespace upmoe::router_init {
namespace {

class Zero final : public RouterInit {
 public:
  using Options = NoOptions;
  explicit Zero(Options /*options*/) {}
  std::vector<float> weight_EH(const RouterPlace& place, const Rng& /*key*/) const override {
    return std::vector<float>(static_cast<std::size_t>(place.E * place.H), 0.0f);
  }
  std::string danger() const override {
    return "all logits tie, so every token goes to the same experts and the others never learn";
  }
};

}  // namespace

RouterInitInfo zero() {
  return router_init_info<Zero>(
      "zero", "all zeros; has to be allowed, since ties send every token to the same experts", "0",
      "a degenerate case, for experiments");
}

}  // namespace upmoe::router_init
