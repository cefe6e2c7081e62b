// The balancing losses as operators of torch; python/upmoe/balance.py gives them names and defaults. They are
// made of ATen's operators, so gradients are theirs.
#include <torch/library.h>

#include "upmoe/balance/term.h"
#include "upmoe/base/error.h"

namespace upmoe::balance {
namespace {

using at::Tensor;

LossShape shape_of(at::IntArrayRef shape) {
  require(shape.size() == 2, "balance: the shape has {} numbers; it is experts and k", shape.size());
  return {.experts = shape[0], .per_token = shape[1]};
}

// `routings`: of each layer token, expert, weight, score, chosen, logits and chance.
MicroBatch batch_of(const c10::List<std::optional<Tensor>>& routings, const std::optional<Tensor>& valid,
                    at::IntArrayRef runs) {
  constexpr std::size_t kOfLayer = 7;
  require(!routings.empty() && routings.size() % kOfLayer == 0, "balance: {} tensors, and a layer has {}",
          routings.size(), kOfLayer);
  require(runs.size() % 3 == 0, "balance: {} numbers of runs, which have three each", runs.size());
  MicroBatch out;
  for (std::size_t i = 0; i < routings.size(); i += kOfLayer) {
    const auto take = [&](std::size_t j) { return routings.get(i + j).value_or(Tensor()); };
    routing::Routing routing;
    routing.token_N = take(0);
    routing.expert_N = take(1);
    routing.weight_N = take(2);
    routing.score_TX = take(3);
    routing.chosen_TM = take(4);
    routing.logits_TX = take(5);
    routing.chance_TX = take(6);
    out.layers.push_back(std::move(routing));
  }
  out.valid_T = valid.value_or(Tensor());
  for (std::size_t i = 0; i < runs.size(); i += 3)
    out.runs.push_back({.sequence = runs[i], .position = runs[i + 1], .tokens = runs[i + 2]});
  return out;
}

// `step`: micro-batches, sequences and real tokens of the optimizer step.
Tensor loss(const std::string& name, at::IntArrayRef shape, const c10::List<std::optional<Tensor>>& routings,
            at::IntArrayRef step, const std::optional<Tensor>& valid, at::IntArrayRef runs,
            const std::optional<Tensor>& totals) {
  require(step.size() == 3, "balance: a step has {} numbers; it is micro-batches, sequences and tokens",
          step.size());
  return Term(name, shape_of(shape))
      .loss(batch_of(routings, valid, runs),
            {.micro_batches = step[0], .sequences = step[1], .tokens = step[2]}, totals.value_or(Tensor()));
}

Tensor totals(const std::string& name, at::IntArrayRef shape,
              const c10::List<std::optional<Tensor>>& routings, const std::optional<Tensor>& valid) {
  return Term(name, shape_of(shape)).totals(batch_of(routings, valid, {}));
}

double coefficient(const std::string& name, std::int64_t step) { return Term(name, {}).coefficient(step); }

}  // namespace
}  // namespace upmoe::balance

TORCH_LIBRARY_FRAGMENT(upmoe, m) {
  using namespace upmoe::balance;
  m.def(
      "balance_loss(str loss, int[] shape, Tensor?[] routings, int[] step, Tensor? valid=None, int[] "
      "runs=[], "
      "Tensor? totals=None) -> Tensor",
      &loss);
  m.def("balance_totals(str loss, int[] shape, Tensor?[] routings, Tensor? valid=None) -> Tensor", &totals);
  m.def("balance_coefficient(str loss, int step) -> float", &coefficient);
}
