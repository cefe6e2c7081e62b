#include "upmoe/upcycle/registry.h"

namespace upmoe::upcycle {

const std::vector<MethodInfo>& methods() {
#define UPMOE_CALL(name) name(),
  static const std::vector<MethodInfo> all = {UPMOE_METHODS(UPMOE_CALL)};
#undef UPMOE_CALL
  return all;
}

}  // namespace upmoe::upcycle
