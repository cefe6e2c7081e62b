// S sequences, T tokens, N pairs.
#include "upmoe/routing/capacity.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros.h>

#include "upmoe/routing/select.h"
#include "upmoe/routing/sequences.h"

namespace upmoe::routing {
namespace {

at::Tensor order_by(const at::Tensor& key_N, bool descending) {
  return std::get<1>(key_N.sort(/*stable=*/true, /*dim=*/0, descending));
}

}  // namespace

Routing within_capacity(const Routing& routing, const Call& call, Capacity capacity) {
  constexpr double kRounding = 1e-9;  // so that a whole number stays what it is
  const std::int64_t E = routing.score_TX.size(1), N = routing.token_N.size(0);
  const auto [S, sequence_T] = sequences_of(call.runs, call.x_TH.size(0), call.x_TH.device());
  const at::Tensor sequence_N = sequence_T.index_select(0, routing.token_N),
                   group_N = sequence_N * E + routing.expert_N, position_N = at::arange(N, group_N.options()),
                   real_N = call.valid_T.defined()
                                ? call.valid_T.index_select(0, routing.token_N).to(at::kLong)
                                : at::zeros({N}, group_N.options()) + 1,
                   pairs_S = at::zeros({S}, group_N.options()).index_add(0, sequence_N, real_N),
                   most_S = (pairs_S.to(at::kDouble) * (capacity.factor / static_cast<double>(E)) - kRounding)
                                .ceil()
                                .clamp_min(1)
                                .minimum(pairs_S.to(at::kDouble))
                                .to(at::kLong);
  // Sorted by group; within a group the pairs in the order in which they find room.
  at::Tensor order_N =
      capacity.by_weight ? order_by(routing.weight_N.detach(), /*descending=*/true) : position_N;
  for (const auto& [key_N, descending] : {std::pair{real_N, true}, {group_N, false}})
    order_N = order_N.index_select(0, order_by(key_N.index_select(0, order_N), descending));
  const at::Tensor sorted_N = group_N.index_select(0, order_N),
                   rank_N = position_N - at::searchsorted(sorted_N, sorted_N),
                   kept_N = rank_N < most_S.index_select(0, sequence_N.index_select(0, order_N));
  return keep_pairs(routing, kept_N.new_zeros({N}).index_copy(0, order_N, kept_N));
}

}  // namespace upmoe::routing
