#include "upmoe/routing/sequences.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <map>

#include "upmoe/base/error.h"

namespace upmoe::routing {

Sequences sequences_of(const std::vector<Run>& runs, std::int64_t tokens, at::Device device) {
  if (runs.empty()) return {1, at::zeros({tokens}, at::TensorOptions(at::kLong).device(device))};
  std::map<std::int64_t, std::int64_t> seen;
  std::vector<std::int64_t> of;
  for (const Run& run : runs)
    of.insert(of.end(), static_cast<std::size_t>(run.tokens),
              seen.try_emplace(run.sequence, std::ssize(seen)).first->second);
  require(std::ssize(of) == tokens, "the runs of a batch have {} tokens, and there are {}", of.size(),
          tokens);
  return {std::ssize(seen), at::from_blob(of.data(), {tokens}, at::kLong).clone().to(device)};
}

}  // namespace upmoe::routing
