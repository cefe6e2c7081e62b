#include "upmoe/balance/registry.h"

namespace upmoe::balance {

const std::vector<LossInfo>& losses() {
#define UPMOE_CALL(name) name(),
  static const std::vector<LossInfo> all = {UPMOE_LOSSES(UPMOE_CALL)};
#undef UPMOE_CALL
  return all;
}

}  // namespace upmoe::balance
