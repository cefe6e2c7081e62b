#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

// Shape letters: T tokens, H hidden size, E experts, X experts with those that compute nothing, N routed
// pairs, M most experts that any token may have.
namespace upmoe::routing {

// Tokens of one sequence that follow each other in a batch.
struct Run {
  std::int64_t sequence;  // its number within the optimizer step, whatever micro-batch it is in
  std::int64_t position;  // of the first token in the sequence
  std::int64_t tokens;
};

// Which tokens go to which experts: N pairs. Top-k makes N = T*K, expert choice N = E*capacity, ReLU and
// top-p as many as the tokens ask for.
struct Routing {
  at::Tensor token_N;   // int64, 0 to T-1; sorted
  at::Tensor expert_N;  // int64, 0 to E-1
  at::Tensor weight_N;  // float32; through it the loss reaches the router
  at::Tensor score_TX;  // float32 after the score function, for losses and metrics (has gradients)
  // int64: the experts that each token chose, in the order of its pairs, before any were dropped; -1: none.
  // Experts from E on compute nothing and are in no pair.
  at::Tensor chosen_TM;
  at::Tensor
      extra_TH;  // float32: what the experts from E on give, with their weights; undefined: there are none
  at::Tensor logits_TX;  // float32, before noise; undefined: the strategy has none
  at::Tensor load_X;     // int64: how many real tokens chose each expert, before any were dropped
  // float32: the probability that an expert is chosen, with gradients; only of strategies whose noise gives
  // one.
  at::Tensor chance_TX;
  // Float32 scalar that the strategy itself adds to the training loss: a mean over this micro-batch, so
  // whoever adds up the micro-batches of a step divides it by their number. Undefined: none.
  at::Tensor loss;
};

}  // namespace upmoe::routing
