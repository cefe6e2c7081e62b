#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "upmoe/base/options.h"
#include "upmoe/random/key.h"
#include "upmoe/routing/routing.h"

// Shape letters: T tokens, H hidden size, E experts, K experts of one token, N routed pairs, M most experts
// that any token may have.
namespace upmoe::routing {

// What a router is made for: the experts of one layer.
struct RouterShape {
  std::int64_t experts = 8, per_token = 2, hidden = 64, vocabulary = 0;
  Rng key{0};  // of (seed, layer): where its own parameters start, its tables
  at::Device device = at::kCPU;
};

// What a layer asks its router, for the tokens of a batch one sequence after the other. Only x and the gate
// are needed; what else is left out is not known, and a strategy that can't do without it says so.
struct Call {
  at::Tensor x_TH;        // what the router and the experts see
  at::Tensor gate_EH;     // the layer's router weight
  at::Tensor token_id_T;  // int64
  at::Tensor valid_T;     // bool, false for padding; undefined: every token is real
  std::vector<Run> runs;  // which tokens are which; empty: all are one sequence, from its beginning
  at::Tensor replay_TM;   // chosen_TM of an earlier Routing: these experts again, whatever the scores are
  bool training = false;  // draws, drops over capacity and balances by force only where this is true
  Rng key{0};             // of (seed, step, layer): the same call draws the same, in recomputation too
  std::string where;      // what errors begin with: "FOLDER: layer 3: "
};

// A parameter or a buffer, under its name within the layer; the value may be replaced by another of its
// shape.
struct State {
  std::string name;
  at::Tensor* value;
};

// What an optimizer step has seen, over all its micro-batches and ranks.
struct Step {
  at::Tensor load_X;  // int64, see Routing
  std::int64_t tokens = 0;
  std::int64_t step = 0;  // from 0
  double learning_rate = 0;
};

// A routing strategy. Asking it changes nothing, so recomputing a layer is asking again. By default logits
// are x W^T of the layer's router weight in float32, so that every strategy can be trained from one
// checkpoint.
class Router {
 public:
  virtual ~Router() = default;
  // Float32; float64 where x is, for the tests of gradients. Logits that are not finite: in evaluation an
  // error on the CPU; in training the weights and `loss` become not finite, so that the step can be skipped.
  Routing route(const Call& call) const;
  // Once after each optimizer step that was not skipped.
  virtual void after_step(const Step& /*step*/) {}
  // Trained with the model, float32 leaves; and what is remembered from step to step, float32 or int64, never
  // cast. Both are saved and restored with the model.
  virtual std::vector<State> parameters() { return {}; }
  virtual std::vector<State> buffers() { return {}; }

 protected:
  virtual at::Tensor logits(const Call& call) const;
  virtual Routing decide(const Call& call, const at::Tensor& logits_TE) const = 0;
};

// What a strategy promises; the contract tests hold it to that.
struct Promises {
  bool causal = true;             // a token's experts do not depend on later tokens of its sequence
  bool batch_independent = true;  // nor on other sequences
};
struct RouterTraits {
  Promises evaluation, training;
  bool token_independent = true;  // in evaluation a token depends on no other at all: it can be decoded
  bool sums_to_one = true;        // a token's weights; then equal experts give the dense FFN
  bool ragged = false;            // a token may have any number of experts
  bool draws = false;             // random numbers in training
  bool needs_token_ids = false;
  bool has_logits = true;
  bool choice_is_trained = true;  // which experts a token gets depends on something that is trained
  bool has_chance = false;        // gives Routing::chance_TX in training
  bool cut_at_zero = false;       // chooses where a logit is above 0, so that a loss on those makes it sparse
  bool even_load = false;         // gives every expert the same number of tokens, whatever is trained
  bool balances_itself = false;   // wants no balancing loss
  double sum_at_start = 1;        // expected sum of a token's weights while all logits are near 0
};

// The released architectures that can hold what was trained, exactly; or why there is none.
struct Holders {
  std::vector<std::string> by;  // "mixtral", or with what it has to be set to
  std::string why_not;          // empty where there are some
};

struct RouterInfo {
  std::string name, summary;
  std::string formula;  // in the notation of docs/routing.md
  std::string source;   // paper or code
  std::vector<OptionInfo> options;
  std::function<RouterTraits(const RouterShape&, const Values&)> traits;
  std::function<Holders(const Values&)> holders;
  std::function<std::int64_t(const RouterShape&)>
      per_token;  // K: what is asked for, unless it is part of the strategy
  std::function<std::unique_ptr<Router>(RouterShape, const Values&)> make;
};

// What a router's file hands to the registry. R has a nested struct Options, a constructor (RouterShape,
// Options), static RouterTraits traits(RouterShape, Options) and static Holders holders(Options); static
// std::int64_t per_token(RouterShape) only where K is part of the strategy.
template <class R>
RouterInfo info(const std::string& name, const std::string& summary, const std::string& formula,
                const std::string& source) {
  using Options = typename R::Options;
  const std::string owner = "router '" + name + "'";
  const auto fixed = [](RouterShape shape) {
    if constexpr (requires { R::per_token(shape); }) shape.per_token = R::per_token(shape);
    return shape;
  };
  return {
      .name = name,
      .summary = summary,
      .formula = formula,
      .source = source,
      .options = describe<Options>(),
      .traits = [=](const RouterShape& shape,
                    const Values& values) { return R::traits(fixed(shape), parse<Options>(values, owner)); },
      .holders = [=](const Values& values) { return R::holders(parse<Options>(values, owner)); },
      .per_token = [=](const RouterShape& shape) { return fixed(shape).per_token; },
      .make = [=](RouterShape shape, const Values& values) -> std::unique_ptr<Router> {
        return std::make_unique<R>(fixed(shape), parse<Options>(values, owner));
      }};
}

}  // namespace upmoe::routing
