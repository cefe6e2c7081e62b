#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "upmoe/convert/plan.h"

namespace upmoe {

struct RunOptions {
  std::size_t threads = 1;  // workers; the bytes do not depend on how many
  const std::atomic<bool>* cancelled =
      nullptr;  // looked at for every block; when it is true the run throws Interrupted
  std::function<void(std::uint64_t done, std::uint64_t total)>
      progress;  // bytes; called from one thread at a time
};

// XXH3 of the data of every tensor, by name.
struct RunRecord {
  std::map<std::string, std::uint64_t> output, source;  // of the source: those that were read
};

// Carries out a plan: writes its safetensors files into a folder, durably. Memory stays at the block buffers
// and the dense matrices in use, whatever the size of the model and the number of experts; every source
// tensor is read once.
RunRecord run_plan(const Plan& plan, const std::filesystem::path& folder, const RunOptions& options);

}  // namespace upmoe
