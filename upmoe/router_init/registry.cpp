#include "upmoe/router_init/registry.h"

namespace upmoe::router_init {

const std::vector<RouterInitInfo>& router_inits() {
#define UPMOE_CALL(name) name(),
  static const std::vector<RouterInitInfo> all = {UPMOE_ROUTER_INITS(UPMOE_CALL)};
#undef UPMOE_CALL
  return all;
}

}  // namespace upmoe::router_init
