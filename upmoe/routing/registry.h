#pragma once
#include "upmoe/routing/router.h"

// The routers, one line each: ROUTER(x) is the function `x` in routing/x.cpp.
#define UPMOE_ROUTERS(ROUTER) \
  ROUTER(softmax_topk)        \
  ROUTER(topk_softmax)        \
  ROUTER(switch_)             \
  ROUTER(gshard)              \
  ROUTER(sigmoid_topk)        \
  ROUTER(bias_topk)           \
  ROUTER(group_topk)          \
  ROUTER(sqrt_softplus_topk)  \
  ROUTER(noisy_topk)          \
  ROUTER(sinkhorn)            \
  ROUTER(dense)               \
  ROUTER(top_p)               \
  ROUTER(relu)                \
  ROUTER(expert_choice)       \
  ROUTER(hash)                \
  ROUTER(zero_experts)        \
  ROUTER(mlp)                 \
  ROUTER(cosine)

namespace upmoe::routing {

#define UPMOE_DECLARE(name) RouterInfo name();
UPMOE_ROUTERS(UPMOE_DECLARE)
#undef UPMOE_DECLARE

const std::vector<RouterInfo>& routers();

}  // namespace upmoe::routing
