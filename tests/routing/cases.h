#pragma once
#include <ATen/core/Tensor.h>

#include <ostream>
#include <string>
#include <vector>

#include "upmoe/routing/registry.h"

// What the tests of routers share. Shape letters: T tokens, E experts, K experts of one token.
namespace upmoe::routing::test {

inline constexpr std::int64_t T = 48, E = 8, K = 2, kVocabulary = 300;

// A router with some options.
struct Case {
  const RouterInfo* info;
  Values values;

  std::string name() const;  // letters, digits and '_'
  RouterShape shape(std::int64_t experts = E, std::int64_t per_token = K) const;
  std::unique_ptr<Router> make(std::int64_t experts = E, std::int64_t per_token = K) const;
  RouterTraits traits() const { return info->traits(shape(), values); }
  std::int64_t per_token(std::int64_t experts = E, std::int64_t asked = K) const {
    return info->per_token(shape(experts, asked));
  }
};
void PrintTo(const Case& one, std::ostream* out);

// Every router by its name alone, with each of its flags and choices changed, and with what top-k strategies
// can be combined with.
std::vector<Case> cases();

// Standard normal: no two are equal, and a step of 1e-4 changes no order.
at::Tensor random_logits(std::int64_t tokens = T, std::int64_t experts = E, std::uint64_t seed = 1);

// A call for which the router's default logits are these: x are the logits, and the gate is the identity.
Call call_of(const at::Tensor& logits_TE, bool training = false);

// weight of each token and expert, 0 where they do not meet
at::Tensor dense_weights(const Routing& routing);

// That the tokens of both have the same experts, with the same weights and scores, up to rounding.
bool same(const Routing& a, const Routing& b, double tolerance = 1e-6);

// The tokens from `begin` up to `end`, numbered from 0.
Routing part(const Routing& routing, std::int64_t begin, std::int64_t end);

}  // namespace upmoe::routing::test
