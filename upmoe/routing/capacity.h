#pragma once
#include "upmoe/routing/router.h"

namespace upmoe::routing {

struct Capacity {
  double factor;           // of what each expert would get if all got the same
  bool by_weight = false;  // keep the largest weights, which looks at later tokens; else the first tokens
};

// Drops the pairs that come to an expert that has its share of a sequence: ceil(factor * pairs / experts) of
// it, counted over its real tokens. Padding is dropped first. Weights are left as they are.
Routing within_capacity(const Routing& routing, const Call& call, Capacity capacity);

}  // namespace upmoe::routing
