#pragma once
#include "upmoe/routing/routing.h"

namespace upmoe::routing {

// The sequence of each token of a batch, numbered from 0 in the order in which they come.
struct Sequences {
  std::int64_t number = 1;
  at::Tensor of_T;  // int64 [T]
};
Sequences sequences_of(const std::vector<Run>& runs, std::int64_t tokens, at::Device device);

}  // namespace upmoe::routing
