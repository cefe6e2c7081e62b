#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/ops/expert_plan.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {
namespace {

constexpr std::int64_t kGroupBytes =
    32 << 20;  // of the neurons of a group, which malloc then keeps for the next

struct Block {  // rows of one expert
  std::size_t expert;
  Range rows;
};
struct Weights {
  at::TensorList gate, up, down;
};
struct Kept {
  Tensor gate_PF, up_PF;  // undefined: not kept
};

std::vector<Block> blocks_of(const ExpertPlan& plan) {
  std::vector<Block> out;
  for (std::size_t e = 0; e + 1 < plan.expert_begin.size(); ++e)
    for (const Range r : cut(plan.expert_begin[e + 1] - plan.expert_begin[e], kTileRows))
      out.push_back({e, {plan.expert_begin[e] + r.begin, r.size}});
  return out;
}

// Consecutive blocks whose neurons fit into kGroupBytes, or one.
std::size_t group_end(const std::vector<Block>& blocks, std::size_t begin, std::int64_t bytes_a_row) {
  std::size_t end = begin + 1;
  const std::int64_t first = blocks[begin].rows.begin;
  while (end < blocks.size() &&
         (blocks[end].rows.begin + blocks[end].rows.size - first) * bytes_a_row <= kGroupBytes)
    ++end;
  return end;
}

void gather(const Tensor& x_NH, const std::int64_t* token, const Tensor& out_RH) {
  const auto size = static_cast<std::size_t>(x_NH.size(1)) * x_NH.element_size();
  const auto* from = static_cast<const std::byte*>(x_NH.const_data_ptr());
  auto* to = static_cast<std::byte*>(out_RH.data_ptr());
  for_each_row(out_RH.size(0), x_NH.size(1), [&](std::int64_t r) {
    std::memcpy(to + static_cast<std::size_t>(r) * size, from + static_cast<std::size_t>(token[r]) * size,
                size);
  });
}

// out[:, columns] = silu(x gate^T) * (x up^T), of a block of rows.
void neurons_tile(const Tensor& x, const Block& block, Range columns, const Weights& weights,
                  const Kept& kept, const Tensor& out) {
  const auto place = [&](const Tensor& all, int slot) {
    if (!all.defined()) return scratch(slot, block.rows.size, columns.size, x.scalar_type());
    return all.narrow(0, block.rows.begin, block.rows.size).narrow(1, columns.begin, columns.size);
  };
  const Tensor gate = place(kept.gate_PF, 0), up = place(kept.up_PF, 1);
  multiply(x, weights.gate[block.expert].narrow(0, columns.begin, columns.size), gate);
  multiply(x, weights.up[block.expert].narrow(0, columns.begin, columns.size), up);
  with_kernels(x.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t r = 0; r < block.rows.size; ++r)
      k.swiglu(data<T>(gate) + r * gate.stride(0), data<T>(up) + r * up.stride(0), columns.size,
               data<T>(out) + r * out.stride(0) + columns.begin);
  });
}

// f(block, columns) for every tile of these blocks' rows and so many columns; few rows take more at once.
template <class F>
void for_each_tile_of(at::ArrayRef<Block> blocks, std::int64_t columns, F f) {
  std::vector<std::pair<Block, Range>> tiles;
  for (const Block& block : blocks)
    for (const Range r : cut(columns, block.rows.size > 256 ? 2 * kTileColumns : 3 * kTileColumns))
      tiles.emplace_back(block, r);
  for_each_tile(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    const auto& [block, range] = tiles[static_cast<std::size_t>(i)];
    f(block, range);
  });
}

Tensor run(const Tensor& x_NH, const ExpertPlan& plan, const Weights& weights, const Kept& kept) {
  const std::int64_t P = static_cast<std::int64_t>(plan.row_token.size()), H = x_NH.size(1),
                     F = weights.gate[0].size(0);
  const Tensor x = x_NH.contiguous(), y_PH = at::empty({P, H}, x.options());
  const std::vector<Block> blocks = blocks_of(plan);
  for (std::size_t begin = 0, end = 0; begin < blocks.size(); begin = end) {
    end = group_end(blocks, begin, F * static_cast<std::int64_t>(x.element_size()));
    const at::ArrayRef<Block> group(blocks.data() + begin, end - begin);
    const std::int64_t first = group.front().rows.begin,
                       rows = group.back().rows.begin + group.back().rows.size - first;
    const Tensor in_RH = at::empty({rows, H}, x.options()), neuron_RF = at::empty({rows, F}, x.options());
    const auto rows_of = [&](const Tensor& all, const Block& b) {
      return all.narrow(0, b.rows.begin - first, b.rows.size);
    };
    gather(x, plan.row_token.data() + first, in_RH);
    for_each_tile_of(group, F, [&](const Block& b, Range columns) {
      neurons_tile(rows_of(in_RH, b), b, columns, weights, kept, rows_of(neuron_RF, b));
    });
    for_each_tile_of(group, H, [&](const Block& b, Range columns) {
      multiply(rows_of(neuron_RF, b), weights.down[b.expert].narrow(0, columns.begin, columns.size),
               y_PH.narrow(0, b.rows.begin, b.rows.size).narrow(1, columns.begin, columns.size));
    });
  }
  return y_PH;
}

// The same of ATen's operations, expert by expert, for other dtypes and devices.
Tensor run_composed(const Tensor& x_NH, const ExpertPlan& plan, const Weights& weights, const Kept& kept) {
  const at::ScalarType dtype = x_NH.scalar_type();
  const Tensor in_PH = x_NH.index_select(0, beside(x_NH, plan.row_token)),
               y_PH = at::empty(in_PH.sizes(), in_PH.options());
  for (std::size_t e = 0; e < weights.gate.size(); ++e) {
    const std::int64_t begin = plan.expert_begin[e], rows = plan.expert_begin[e + 1] - begin;
    if (rows == 0) continue;
    const Tensor in = in_PH.narrow(0, begin, rows), gate = at::mm(in, weights.gate[e].to(dtype).t()),
                 up = at::mm(in, weights.up[e].to(dtype).t());
    if (kept.gate_PF.defined()) {
      kept.gate_PF.narrow(0, begin, rows).copy_(gate);
      kept.up_PF.narrow(0, begin, rows).copy_(up);
    }
    Tensor out = y_PH.narrow(0, begin, rows);
    at::mm_out(out, swiglu(gate, up), weights.down[e].to(dtype).t());
  }
  return y_PH;
}

bool all_have_kernels(const Tensor& x, const Weights& weights) {
  const auto fits = [](const Tensor& w) { return has_kernels(w) && w.stride(1) == 1; };
  return has_kernels(x) && std::ranges::all_of(weights.gate, fits) && std::ranges::all_of(weights.up, fits) &&
         std::ranges::all_of(weights.down, fits);
}

Tensor run_and_combine(const Tensor& x, const Tensor& token, const Tensor& expert, const Tensor& weight_P,
                       const Weights& weights, const Kept& kept) {
  const ExpertPlan plan =
      make_expert_plan(token, expert, x.size(0), static_cast<std::int64_t>(weights.gate.size()));
  const Tensor y_PH =
      all_have_kernels(x, weights) ? run(x, plan, weights, kept) : run_composed(x, plan, weights, kept);
  return combine(plan, y_PH, weight_P);
}

}  // namespace

Tensor experts(const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P, const Tensor& weight_P,
               at::TensorList gate, at::TensorList up, at::TensorList down) {
  check_experts(x_NH, token_P, expert_P, weight_P, gate, up, down);
  return run_and_combine(x_NH, token_P, expert_P, weight_P, {gate, up, down}, {});
}

std::tuple<Tensor, Tensor, Tensor> experts_kept(const Tensor& x_NH, const Tensor& token_P,
                                                const Tensor& expert_P, const Tensor& weight_P,
                                                at::TensorList gate, at::TensorList up, at::TensorList down) {
  check_experts(x_NH, token_P, expert_P, weight_P, gate, up, down);
  const std::int64_t P = token_P.size(0), F = gate[0].size(0);
  const Kept kept{at::empty({P, F}, x_NH.options()), at::empty({P, F}, x_NH.options())};
  return {run_and_combine(x_NH, token_P, expert_P, weight_P, {gate, up, down}, kept), kept.gate_PF,
          kept.up_PF};
}

Unstacked unstack(const Tensor& gate_up, const Tensor& down) {
  require(gate_up.dim() == 3 && down.dim() == 3 && gate_up.size(1) == 2 * down.size(2) &&
              gate_up.size(0) == down.size(0),
          "experts: stacked weights do not fit together");
  const std::int64_t F = down.size(2);
  Unstacked out;
  for (std::int64_t e = 0; e < down.size(0); ++e) {
    out.gate.push_back(gate_up.select(0, e).narrow(0, 0, F));
    out.up.push_back(gate_up.select(0, e).narrow(0, F, F));
    out.down.push_back(down.select(0, e));
  }
  return out;
}

Tensor experts_stacked(const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P,
                       const Tensor& weight_P, const Tensor& gate_up, const Tensor& down) {
  const Unstacked w = unstack(gate_up, down);
  return experts(x_NH, token_P, expert_P, weight_P, w.gate, w.up, w.down);
}

std::tuple<Tensor, Tensor, Tensor> experts_stacked_kept(const Tensor& x_NH, const Tensor& token_P,
                                                        const Tensor& expert_P, const Tensor& weight_P,
                                                        const Tensor& gate_up, const Tensor& down) {
  const Unstacked w = unstack(gate_up, down);
  return experts_kept(x_NH, token_P, expert_P, weight_P, w.gate, w.up, w.down);
}

}  // namespace upmoe::ops::raw
