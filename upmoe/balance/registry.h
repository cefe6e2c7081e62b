#pragma once
#include "upmoe/balance/loss.h"

// The balancing losses, one line each: LOSS(x) is the function `x` in balance/x.cpp.
#define UPMOE_LOSSES(LOSS) \
  LOSS(switch_)            \
  LOSS(joint)              \
  LOSS(sequence)           \
  LOSS(global_batch)       \
  LOSS(z)                  \
  LOSS(importance)         \
  LOSS(load)               \
  LOSS(relu_l1)            \
  LOSS(entropy)

namespace upmoe::balance {

#define UPMOE_DECLARE(name) LossInfo name();
UPMOE_LOSSES(UPMOE_DECLARE)
#undef UPMOE_DECLARE

const std::vector<LossInfo>& losses();

}  // namespace upmoe::balance
