#pragma once
#include "upmoe/target/target.h"

// The targets, one line each: TARGET(x) is the function `x` in target/x.cpp.
#define UPMOE_TARGETS(TARGET) TARGET(mixtral)

namespace upmoe::target {

#define UPMOE_DECLARE(name) Target name();
UPMOE_TARGETS(UPMOE_DECLARE)
#undef UPMOE_DECLARE

const std::vector<Target>& targets();

}  // namespace upmoe::target
