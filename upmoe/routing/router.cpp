#include "upmoe/routing/router.h"

#include <ATen/TensorOperators.h>
#include <fmt/ranges.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/ops.h"
#include "upmoe/routing/select.h"
#include "upmoe/routing/sequences.h"

namespace upmoe::routing {
namespace {

// What comes from elsewhere than a model of ours may be anything.
void check(const Call& call) {
  require(call.x_TH.dim() == 2 && call.gate_EH.dim() == 2 && call.x_TH.size(1) == call.gate_EH.size(1),
          "{}a router takes x [tokens, hidden] and a weight [experts, hidden], not {} and {}", call.where,
          fmt::format("{}", fmt::join(call.x_TH.sizes(), " x ")),
          fmt::format("{}", fmt::join(call.gate_EH.sizes(), " x ")));
  const std::int64_t T = call.x_TH.size(0);
  const auto check_ids = [&](const at::Tensor& x, at::ScalarType dtype, const char* what) {
    require(!x.defined() || (x.dim() == 1 && x.size(0) == T && x.scalar_type() == dtype),
            "{}a router takes {} of {} [{} tokens]", call.where, what, c10::toString(dtype), T);
  };
  check_ids(call.token_id_T, at::kLong, "token ids");
  check_ids(call.valid_T, at::kBool, "which tokens are real");
  check_runs(call.runs, T);
  const at::Tensor& replay = call.replay_TM;
  require(
      !replay.defined() || (replay.dim() == 2 && replay.size(0) == T && replay.scalar_type() == at::kLong),
      "{}experts to replay are Long [{} tokens, experts of a token]", call.where, T);
}

// On the CPU alone: elsewhere that would have to be waited for.
void check_replay(const Call& call, std::int64_t experts) {
  const at::Tensor& replay = call.replay_TM;
  if (!replay.defined() || !replay.is_cpu() || replay.numel() == 0) return;
  const auto least = replay.min().item<std::int64_t>(), most = replay.max().item<std::int64_t>();
  require(least >= -1 && most < experts, "{}expert {} is to be replayed, and there are {}", call.where,
          least < -1 ? least : most, experts);
  require((mask_of(replay, experts).sum(1) == (replay >= 0).sum(1)).all().item<bool>(),
          "{}an expert is to be replayed twice for one token", call.where);
}

}  // namespace

at::Tensor Router::logits(const Call& call) const {
  // In float32 whatever the model computes in: rounded logits would send tokens elsewhere.
  const at::ScalarType wide = call.x_TH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return ops::linear(call.x_TH.to(wide), call.gate_EH);
}

Routing Router::route(const Call& call) const {
  check(call);
  const at::Tensor logits_TX = logits(call);
  check_replay(call, logits_TX.defined() ? logits_TX.size(1) : call.gate_EH.size(0));
  const bool has_logits = logits_TX.defined();
  if (has_logits && !call.training && logits_TX.is_cpu())
    require(logits_TX.detach().isfinite().all().item<bool>(),
            "{}the router's logits are not finite: the weights or the activations have overflowed",
            call.where);
  Routing out = decide(call, logits_TX);
  out.logits_TX = logits_TX;
  out.load_X = count_load(out.chosen_TM, call.valid_T, out.score_TX.size(1));
  if (has_logits && call.training) {
    const at::Tensor poison = (logits_TX.detach() * 0).sum();  // 0, or NaN where any is not finite
    out.weight_N = out.weight_N + poison;
    out.loss = out.loss.defined() ? out.loss + poison : poison;
  }
  return out;
}

}  // namespace upmoe::routing
