#pragma once
#include <gtest/gtest.h>

#include <string>

#include "upmoe/base/isa.h"

namespace upmoe {

// Runs `check` at each level of instructions that this build has on this processor.
inline void at_every_isa(auto&& check) {
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, std::string(isa_name(isa)));
    set_active_isa(isa);
    check();
  }
  set_active_isa(before);
}

}  // namespace upmoe
