#pragma once
#include <cstdint>
#include <functional>

#include "upmoe/base/error.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/progress_bar.h"

namespace upmoe::cli {

// What a measurement calls with tokens done and in all: shows them on the bar, which has to outlive it, and
// throws when the user asks to stop.
inline std::function<void(std::int64_t, std::int64_t)> watched(
    ProgressBar& bar, const Interrupted& stop = Interrupted("interrupted")) {
  return [&bar, stop, &interrupted = catch_interrupts()](std::int64_t done, std::int64_t total) {
    if (interrupted) throw stop;
    bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
  };
}

}  // namespace upmoe::cli
