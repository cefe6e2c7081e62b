#pragma once
#include "upmoe/routing/routing.h"

// What routers are written with. Nothing here waits for a GPU but masked_select and nonzero, where the number
// of pairs is what the tokens ask for.
namespace upmoe::routing {

// The K largest scores of each token, largest first; of equal ones the expert with the lower number, on every
// device. int64 [T, K].
at::Tensor select_topk(const at::Tensor& score_TE, std::int64_t per_token);

// Pairs in the order of the tokens, from tables of K experts for each.
Routing from_topk(const at::Tensor& expert_TK, const at::Tensor& weight_TK, const at::Tensor& score_TE);

// Pairs where `chosen_TE` (bool) is true: any number for a token, ascending.
Routing from_mask(const at::Tensor& chosen_TE, const at::Tensor& weight_TE, const at::Tensor& score_TE);

// bool [T, E] of chosen_TM: true where a token chose the expert.
at::Tensor mask_of(const at::Tensor& chosen_TM, std::int64_t experts);

// int64 [E]: how many of the real tokens chose each expert.
at::Tensor count_load(const at::Tensor& chosen_TM, const at::Tensor& valid_T, std::int64_t experts);

// Keeps the pairs where `kept_N` (bool) is true.
Routing keep_pairs(Routing routing, const at::Tensor& kept_N);

}  // namespace upmoe::routing
