#pragma once
#include "upmoe/routing/router.h"

// What routers are written with.
namespace upmoe::routing {

// The K largest scores of each token, largest first; of equal ones the expert with the lower number, on every
// device. int64 [T, K].
at::Tensor select_topk(const at::Tensor& score_TE, std::int64_t per_token);

// Pairs in the order of the tokens, from tables of K experts for each.
Routing from_topk(const at::Tensor& expert_TK, const at::Tensor& weight_TK, const at::Tensor& score_TE);

}  // namespace upmoe::routing
