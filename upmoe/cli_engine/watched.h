#pragma once
#include <cstdint>
#include <functional>

#include "upmoe/cli/progress_bar.h"

namespace upmoe::cli {

// What a measurement calls with tokens done and in all: shows them on the bar, which has to outlive it.
inline std::function<void(std::int64_t, std::int64_t)> watched(ProgressBar& bar) {
  return [&bar](std::int64_t done, std::int64_t total) {
    bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
  };
}

}  // namespace upmoe::cli
