#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "upmoe/base/options.h"
#include "upmoe/routing/router.h"

// Shape letters: T tokens, E experts, X experts with those that compute nothing, S scopes (a sequence, a
// micro-batch or a step each), M numbers that a loss adds up over tokens.
namespace upmoe::balance {

struct LossShape {
  std::int64_t experts = 8, per_token = 2;
};

// A balancing loss. It is written as sums over tokens and a function of these sums, and knows nothing of
// micro-batches, padding and layers: over which tokens is summed is its scope, see term.h.
class Loss {
 public:
  virtual ~Loss() = default;
  // What each token adds, [T, M] in the dtype of the scores.
  virtual at::Tensor of_tokens(const routing::Routing& routing) const = 0;
  // The loss, [S], of sums over tokens, [S, M], and of how many tokens these were, [S], at least one.
  virtual at::Tensor value(const at::Tensor& sum_SM, const at::Tensor& tokens_S) const = 0;
};

// The tokens that a loss is a function of.
enum class Scope {
  sequence,     // each sequence; the loss is the mean over those of the step
  micro_batch,  // what goes through the model at once; the mean over the micro-batches of the step
  step          // all of an optimizer step
};

struct LossInfo {
  std::string name, summary;
  std::string formula;               // in the notation of docs/routing.md
  std::string source;                // paper or code
  Scope scope = Scope::micro_batch;  // unless asked for another
  bool joint = false;                // the layers are taken as if their tokens were those of one
  bool linear = false;               // the value is a mean over tokens: scope `step` needs no pass before
  double coefficient = 0;            // unless asked for another
  std::vector<OptionInfo> options;
  // Its value while every expert has the same load and probability; 0 where it has no such value.
  std::function<double(const LossShape&)> balanced;
  // Why it can't be trained with this router; empty: it can.
  std::function<std::string(const routing::RouterTraits&)> why_not;
  std::function<std::unique_ptr<Loss>(LossShape, const Values&)> make;
};

// `L` has a nested struct Options and a constructor (LossShape, Options).
template <class L>
void enrol(LossInfo& info) {
  using Options = typename L::Options;
  const std::string owner = "balancing loss '" + info.name + "'";
  info.options = describe<Options>();
  info.make = [owner](LossShape shape, const Values& values) -> std::unique_ptr<Loss> {
    return std::make_unique<L>(shape, parse<Options>(values, owner));
  };
}

}  // namespace upmoe::balance
