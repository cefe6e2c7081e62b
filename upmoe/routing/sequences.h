#pragma once
#include "upmoe/routing/routing.h"

namespace upmoe::routing {

// Throws Error unless the runs are as long as there are tokens, and none begins before 0. None: one sequence.
void check_runs(const std::vector<Run>& runs, std::int64_t tokens);

// The sequence of each token of a batch, numbered from 0 in the order in which they come.
struct Sequences {
  std::int64_t number = 1;
  at::Tensor of_T;  // int64 [T]
};
Sequences sequences_of(const std::vector<Run>& runs, std::int64_t tokens, at::Device device);

}  // namespace upmoe::routing
