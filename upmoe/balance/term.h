#pragma once
#include "upmoe/balance/loss.h"

// Shape letters: L layers (1 where they are joint), S scopes, M numbers that a loss adds up over tokens, T
// tokens.
namespace upmoe::balance {

// What the routers of all MoE layers said of one micro-batch.
struct MicroBatch {
  std::vector<routing::Routing> layers;
  at::Tensor valid_T;              // bool; undefined: every token is real
  std::vector<routing::Run> runs;  // which tokens are which; empty: one sequence
};

// How large an optimizer step is, in real tokens: over all its micro-batches and processes.
struct StepSize {
  std::int64_t micro_batches = 1;
  std::int64_t sequences = 1;  // with at least one real token
  std::int64_t tokens = 0;
};

// The coefficient over the steps: rises linearly for `warmup` steps, then stays or falls.
struct Schedule {
  Choice schedule{"constant", {"constant", "linear", "cosine"}};
  std::int64_t warmup = 0, until = 0;
  double end = 0;
  void visit(auto&& field) {
    field(schedule, "schedule", "of the coefficient after the warm-up");
    field(warmup, "warmup", "steps over which the coefficient rises from 0");
    field(until, "until", "step at which it has fallen to `end` times what it was, linear or cosine");
    field(end, "end", "see until");
  }
};

// A balancing loss as it is trained with: over which tokens it is taken, and with what coefficient. The sum
// of loss() over the micro-batches of a step is the loss of the step, so gradients are accumulated as they
// are: the coefficient that is asked for is the one in the gradient, however the step is cut.
class Term {
 public:
  // "NAME[:COEFFICIENT][,scope=sequence|micro-batch|step][,key=value]...". Throws UsageError.
  Term(std::string_view text, LossShape shape);

  const LossInfo& info() const { return *info_; }
  Scope scope() const { return scope_; }
  double coefficient(std::int64_t step) const;

  // Whether a step of several micro-batches needs the totals of all of them before the first gradient: a pass
  // without gradients, which costs about a third of the step.
  bool needs_totals(const StepSize& step) const;
  // Float32 [L, M]: the sums of one micro-batch, without gradients; those of all are added up.
  at::Tensor totals(const MicroBatch& batch) const;

  // The part of a micro-batch, a scalar without coefficient: of each layer, and these are added up. `totals`:
  // of the whole step, where it needs them.
  at::Tensor loss(const MicroBatch& batch, const StepSize& step, const at::Tensor& totals = {}) const;

 private:
  at::Tensor part(const at::Tensor& of_tokens_TM, const MicroBatch& batch, const StepSize& step,
                  const at::Tensor& total_M, std::int64_t layers) const;

  const LossInfo* info_;
  Scope scope_;
  double coefficient_;
  Schedule schedule_;
  std::unique_ptr<Loss> loss_;
};

// Throws UsageError where the two can't be trained together, with the reason.
void require_fit(const LossInfo& loss, const routing::RouterInfo& router, const routing::RouterShape& shape,
                 const Values& router_options);

}  // namespace upmoe::balance
