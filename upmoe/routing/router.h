#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "upmoe/base/options.h"

// Shape letters: T tokens, E experts, K experts of one token, N routed pairs.
namespace upmoe::routing {

struct RouterShape {
  std::int64_t experts = 8, per_token = 2;
  at::Device device = at::kCPU;
};

// Which tokens go to which experts: N pairs. Top-k makes N = T*K, expert choice N = E*capacity, ReLU and
// top-p as many as the tokens ask for.
struct Routing {
  at::Tensor token_N;   // int64, 0 to T-1; what every helper of select.h makes is sorted by it
  at::Tensor expert_N;  // int64, 0 to E-1
  at::Tensor weight_N;  // float32; through it the loss reaches the router
  at::Tensor score_TE;  // float32 after the score function, for losses and metrics (has gradients)
};

// What a router remembers from step to step: saved and restored with the model, never cast.
struct Buffer {
  std::string name;
  at::Tensor value;
};

// A routing strategy. It owns no gate: logits are x W^T of the layer's weight [E, H], in float32, so that
// every strategy can be trained from the same checkpoint. Used by one thread at a time.
class Router {
 public:
  virtual ~Router() = default;
  // Float32; float64 too, for the tests of gradients. Logits that are not finite are an error on the CPU;
  // elsewhere they reach the loss.
  Routing route(const at::Tensor& logits_TE);
  // Once after each optimizer step, with the tokens that each expert got in it: int64, before any are
  // dropped, summed over all micro-batches and ranks.
  virtual void after_step(const at::Tensor& /*load_E*/) {}
  virtual std::vector<Buffer> buffers() const { return {}; }

 private:
  virtual Routing choose(const at::Tensor& logits_TE) = 0;  // what a new strategy writes
};

// What a strategy promises; the contract tests hold it to that.
struct RouterTraits {
  bool causal = true;                  // a token's experts do not depend on later tokens
  bool batch_independent_eval = true;  // nor, without training, on any other token
  bool sums_to_one = true;             // a token's weights; then equal experts give the dense FFN
  bool ragged = false;                 // a token may have any number of experts
};

struct RouterInfo {
  std::string name, summary;
  std::string formula;  // in the notation of docs/add_a_router.md
  std::string source;   // paper or code
  // What it promises with these options.
  std::function<RouterTraits(const Values&)> traits;
  std::vector<OptionInfo> options;
  std::function<std::unique_ptr<Router>(RouterShape, const Values&)> make;
};

// What a router's file hands to the registry; R has a nested struct Options, a constructor (RouterShape,
// Options) and a static RouterTraits traits(Options).
template <class R>
RouterInfo info(std::string name, std::string summary, std::string formula, std::string source) {
  using Options = typename R::Options;
  const std::string owner = "router '" + name + "'";
  return {std::move(name),
          std::move(summary),
          std::move(formula),
          std::move(source),
          [owner](const Values& values) { return R::traits(parse<Options>(values, owner)); },
          describe<Options>(),
          [owner](RouterShape shape, const Values& values) {
            return std::make_unique<R>(shape, parse<Options>(values, owner));
          }};
}

}  // namespace upmoe::routing
