#pragma once
#include <functional>

#include "upmoe/routing/router.h"

// Shape letters: T tokens, E experts, K experts of one token.
namespace upmoe::routing {

// The K experts of each token by a table of scores, int64 [T, K]: those of the largest scores, or those that
// are replayed.
using Pick = std::function<at::Tensor(const at::Tensor& score_TE)>;

// What all strategies that give every token K experts can be combined with; in training alone.
struct TopkOptions {
  Choice noise{"none", {"none", "gaussian", "gumbel"}};
  double noise_scale = 1;
  Choice noise_for{"choice", {"choice", "both"}};
  double jitter = 0, capacity = 0;
  Choice drop{"position", {"position", "probability"}};

  void visit(auto&& field) {
    field(noise, "noise", "noise on the logits, in training");
    field(noise_scale, "noise-scale", "factor on the noise");
    field(noise_for, "noise-for",
          "what the noise changes: the choice of experts, or both choice and weights");
    field(jitter, "jitter",
          "the router's input times a number within 1 - jitter and 1 + jitter, in training");
    visit_capacity(field);
  }
  // For a strategy that has a noise of its own.
  void visit_capacity(auto&& field) {
    field(capacity, "capacity",
          "capacity factor: in training an expert takes at most ceil(factor * k * tokens / experts) of a "
          "sequence; "
          "0: no limit");
    field(drop, "drop",
          "which pairs are dropped over capacity: the last ones, or those of the smallest weights");
  }
};

// A strategy that gives each token K experts. It writes choose(): what it does with the logits of each token.
class TopkRouter : public Router {
 protected:
  TopkRouter(const RouterShape& shape, const TopkOptions& options);

  virtual Routing choose(const at::Tensor& logits_TE, const Pick& pick) const = 0;
  // What choose() is given: the largest scores, or what the call replays.
  virtual Pick picker(const Call& call) const;
  // What the logits are, where they are not x W^T; x is what the jitter left of it.
  virtual at::Tensor logits_of(const Call& call) const { return Router::logits(call); }

  at::Tensor logits(const Call& call) const final;
  Routing decide(const Call& call, const at::Tensor& logits_TE) const override;

  const RouterShape shape_;

 private:
  TopkOptions options_;
};

// A softmax over all experts, the K that are picked by it, and, if asked, those divided by their sum.
Routing choose_of_softmax(const at::Tensor& logits_TE, const Pick& pick, bool renormalise);

// `traits` of such a strategy, with what these options take away from them.
RouterTraits with_options(RouterTraits traits, const TopkOptions& options);

// Of k/E: what the weights of k experts sum to while a softmax over all E is uniform.
inline double uniform_share(const RouterShape& shape) {
  return static_cast<double>(shape.per_token) / static_cast<double>(shape.experts);
}

}  // namespace upmoe::routing
