// S sequences, T tokens, N pairs.
#include "upmoe/routing/capacity.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros.h>

#include <map>

#include "upmoe/routing/select.h"

namespace upmoe::routing {
namespace {

// The sequence of each token, numbered from 0 in the order in which they come.
struct Sequences {
  std::int64_t number = 1;
  at::Tensor of_T;
};

Sequences sequences(const Call& call) {
  const std::int64_t T = call.x_TH.size(0);
  const at::TensorOptions whole = at::TensorOptions(at::kLong).device(call.x_TH.device());
  if (call.runs.empty()) return {1, at::zeros({T}, whole)};
  std::map<std::int64_t, std::int64_t> seen;
  std::vector<std::int64_t> of;
  for (const Run& run : call.runs)
    of.insert(of.end(), static_cast<std::size_t>(run.tokens),
              seen.try_emplace(run.sequence, std::ssize(seen)).first->second);
  return {std::ssize(seen),
          at::from_blob(of.data(), {std::ssize(of)}, at::kLong).clone().to(call.x_TH.device())};
}

at::Tensor order_by(const at::Tensor& key_N, bool descending) {
  return std::get<1>(key_N.sort(/*stable=*/true, /*dim=*/0, descending));
}

}  // namespace

Routing within_capacity(const Routing& routing, const Call& call, Capacity capacity) {
  constexpr double kRounding = 1e-9;  // so that a whole number stays what it is
  const std::int64_t E = routing.score_TX.size(1), N = routing.token_N.size(0);
  const auto [S, sequence_T] = sequences(call);
  const at::Tensor sequence_N = sequence_T.index_select(0, routing.token_N),
                   group_N = sequence_N * E + routing.expert_N, position_N = at::arange(N, group_N.options()),
                   real_N = call.valid_T.defined()
                                ? call.valid_T.index_select(0, routing.token_N).to(at::kLong)
                                : at::zeros({N}, group_N.options()) + 1,
                   pairs_S = at::zeros({S}, group_N.options()).index_add(0, sequence_N, real_N),
                   most_S = (pairs_S.to(at::kDouble) * (capacity.factor / static_cast<double>(E)) - kRounding)
                                .ceil()
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
