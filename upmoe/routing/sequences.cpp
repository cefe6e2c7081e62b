#include "upmoe/routing/sequences.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <map>

#include "upmoe/base/error.h"

namespace upmoe::routing {

void check_runs(const std::vector<Run>& runs, std::int64_t tokens) {
  constexpr std::int64_t kMostPosition = std::int64_t{1} << 40;
  std::int64_t left = runs.empty() ? 0 : tokens;
  for (const Run& run : runs) {
    require(run.position >= 0 && run.position <= kMostPosition && run.tokens >= 0 && run.tokens <= left,
            "a run of {} tokens from position {} is not among the {} tokens of a batch", run.tokens,
            run.position, tokens);
    left -= run.tokens;
  }
  require(left == 0, "the runs of a batch have {} tokens, and there are {}", tokens - left, tokens);
}

Sequences sequences_of(const std::vector<Run>& runs, std::int64_t tokens, at::Device device) {
  check_runs(runs, tokens);
  if (runs.empty()) return {1, at::zeros({tokens}, at::TensorOptions(at::kLong).device(device))};
  std::map<std::int64_t, std::int64_t> seen;
  std::vector<std::int64_t> of;
  for (const Run& run : runs)
    of.insert(of.end(), static_cast<std::size_t>(run.tokens),
              seen.try_emplace(run.sequence, std::ssize(seen)).first->second);
  return {std::ssize(seen), at::from_blob(of.data(), {tokens}, at::kLong).clone().to(device)};
}

}  // namespace upmoe::routing
