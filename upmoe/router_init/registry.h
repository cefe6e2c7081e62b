#pragma once
#include "upmoe/router_init/router_init.h"

// The ways in which a router can start, one line each; the first is the default. INIT(x) is the function `x`.
#define UPMOE_ROUTER_INITS(INIT) \
  INIT(automatic)                \
  INIT(uniform)                  \
  INIT(orthogonal)               \
  INIT(zero)                     \
  INIT(torch_rand)               \
  INIT(torch_rand_mean0)         \
  INIT(torch_rand_002)           \
  INIT(torch_normal_002)         \
  INIT(torch_normal_028)

namespace upmoe::router_init {

#define UPMOE_DECLARE(name) RouterInitInfo name();
UPMOE_ROUTER_INITS(UPMOE_DECLARE)
#undef UPMOE_DECLARE

const std::vector<RouterInitInfo>& router_inits();

}  // namespace upmoe::router_init
