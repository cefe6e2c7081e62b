#pragma once
#include "upmoe/upcycle/method.h"

// The methods, one line each: METHOD(x) is the function `x` in upcycle/x.cpp. A file without its line fails
// to compile (-Wmissing-declarations), a line without its file to link.
#define UPMOE_METHODS(METHOD) \
  METHOD(copy)                \
  METHOD(drop)                \
  METHOD(noise)               \
  METHOD(scratch)             \
  METHOD(split)

namespace upmoe::upcycle {

#define UPMOE_DECLARE(name) MethodInfo name();
UPMOE_METHODS(UPMOE_DECLARE)
#undef UPMOE_DECLARE

const std::vector<MethodInfo>& methods();

}  // namespace upmoe::upcycle
