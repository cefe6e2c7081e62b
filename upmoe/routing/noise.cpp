#include "upmoe/routing/noise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "upmoe/random/normal.h"
#include "upmoe/random/sample.h"
#include "upmoe/routing/sequences.h"

namespace upmoe::routing {

at::Tensor draw(const Call& call, std::string_view name, Draw what, std::int64_t columns) {
  const std::int64_t T = call.x_TH.size(0);
  const std::vector<Run> whole = {{.sequence = 0, .position = 0, .tokens = T}};
  const at::Tensor out = at::empty({T, columns}, at::kFloat);
  float* to = out.mutable_data_ptr<float>();
  check_runs(call.runs, T);
  for (const Run& run : call.runs.empty() ? whole : call.runs) {
    const Rng key = call.key.at(name).at(static_cast<std::uint64_t>(run.sequence));
    const auto first = static_cast<std::uint64_t>(run.position * columns);
    const std::span<float> some(to, static_cast<std::size_t>(run.tokens * columns));
    if (what == Draw::normal)
      normals(key, first, some);
    else
      uniforms(key, first, some);
    to += some.size();
  }
  // The middle of each step of 2^-24: never 0, and never 1, which the last of them would be rounded to.
  if (what != Draw::normal) out.add_(0x1p-25).clamp_max_(1 - 0x1p-24);
  return (what == Draw::gumbel ? out.log().neg().log().neg() : out).to(call.x_TH.device());
}

}  // namespace upmoe::routing
