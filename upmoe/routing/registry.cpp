#include "upmoe/routing/registry.h"

namespace upmoe::routing {

const std::vector<RouterInfo>& routers() {
#define UPMOE_CALL(name) name(),
  static const std::vector<RouterInfo> all = {UPMOE_ROUTERS(UPMOE_CALL)};
#undef UPMOE_CALL
  return all;
}

}  // namespace upmoe::routing
