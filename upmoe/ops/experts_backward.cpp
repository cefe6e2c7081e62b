#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "upmoe/ops/expert_tiles.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/raw.h"

namespace upmoe::ops::raw {
namespace {

struct Weights {
  at::TensorList gate, up, down;
};

// Where the gradients go. Of the weights: empty lists, nowhere.
struct Gradients {
  Tensor dx_PH, dweight_R;  // rows: pairs sorted by expert
  Weights weights;
};

// What a layer was given, and what it kept.
struct Layer {
  Tensor x_NH, weight_R;
  Weights weights;
  Tensor gate_PF, up_PF;
};

// Of some rows: gradients of gate and up, and weight * silu(gate) * up.
struct NeuronGradients {
  Tensor dgate_RF, dup_RF, scaled_RF;
};

// Some neurons of a block. dweight: each row's part of the gradient of its weight, `stride` apart.
void neurons_tile(const Tensor& dy, const Tensor& down_HF, const Tensor& gate, const Tensor& up,
                  const float* weight, const NeuronGradients& out, float* dweight, std::int64_t stride) {
  const Tensor da = scratch(/*slot=*/0, gate.size(0), gate.size(1), dy.scalar_type());
  product(dy, down_HF, da);
  with_kernels(da.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t r = 0; r < gate.size(0); ++r) {
      const auto row = [&](const Tensor& x) { return data<T>(x) + r * x.stride(0); };
      dweight[r * stride] =
          k.swiglu_backward(row(da), row(gate), row(up), weight[r], static_cast<std::size_t>(gate.size(1)),
                            row(out.dgate_RF), row(out.dup_RF), row(out.scaled_RF));
    }
  });
}

// out = dy^T x over the rows of an expert.
struct WeightTile {
  Tensor dy_RO, x_RI, out_OI;
};

void add_tiles(const Tensor& dy_RO, const Tensor& x_RI, const Tensor& out_OI, std::vector<WeightTile>& all) {
  constexpr std::int64_t kTile = 1024;  // both sides are laid out anew for each tile
  for (const Range o : cut(dy_RO.size(1), kTile))
    for (const Range i : cut(x_RI.size(1), kTile))
      all.push_back({part(dy_RO, 1, o), part(x_RI, 1, i), part(part(out_OI, 0, o), 1, i)});
}

void weights_backward(const Group& group, const Tensor& dy_RH, const Tensor& in_RH, const NeuronGradients& d,
                      const Weights& out) {
  std::vector<WeightTile> tiles;
  for (std::size_t first = 0, next = 0; first < group.blocks.size(); first = next) {
    Range rows = group.blocks[first].rows;  // of all blocks of the expert
    const std::size_t e = group.blocks[first].expert;
    for (next = first + 1; next < group.blocks.size() && group.blocks[next].expert == e; ++next)
      rows.size += group.blocks[next].rows.size;
    const Tensor in = part(in_RH, 0, rows);
    add_tiles(part(d.dgate_RF, 0, rows), in, out.gate[e], tiles);
    add_tiles(part(d.dup_RF, 0, rows), in, out.up[e], tiles);
    add_tiles(part(dy_RH, 0, rows), part(d.scaled_RF, 0, rows), out.down[e], tiles);
  }
  for_each_tile(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    const WeightTile& t = tiles[static_cast<std::size_t>(i)];
    product(t.dy_RO.t(), t.x_RI, t.out_OI);
  });
}

void group_backward(const Group& group, const ExpertPlan& plan, const Tensor& dy_NH, const Layer& layer,
                    const Gradients& out) {
  const std::int64_t R = group.rows.size, H = dy_NH.size(1), F = layer.gate_PF.size(1);
  const Tensor in_RH = gather(layer.x_NH, plan, group.rows), dy_RH = gather(dy_NH, plan, group.rows),
               dx_RH = part(out.dx_PH, 0, group.rows), gate_RF = part(layer.gate_PF, 0, group.rows),
               up_RF = part(layer.up_PF, 0, group.rows);
  const auto neurons = [&] { return at::empty({R, F}, dy_RH.options()); };
  const NeuronGradients d{neurons(), neurons(), neurons()};
  const std::int64_t parts = up_to(kTileColumns, F) / kTileColumns;
  const Tensor dweight = at::zeros({R, parts}, out.dweight_R.options());
  for_each_tile_of(group, F, [&](const Block& b, Range f) {
    const auto tile = [&](const Tensor& all) { return part(part(all, 0, b.rows), 1, f); };
    neurons_tile(part(dy_RH, 0, b.rows), part(layer.weights.down[b.expert], 1, f), tile(gate_RF), tile(up_RF),
                 data<float>(layer.weight_R) + group.rows.begin + b.rows.begin,
                 {tile(d.dgate_RF), tile(d.dup_RF), tile(d.scaled_RF)},
                 data<float>(dweight) + b.rows.begin * parts + f.begin / kTileColumns, parts);
  });
  part(out.dweight_R, 0, group.rows).copy_(dweight.sum(/*dim=*/1));
  for_each_tile_of(group, H, [&](const Block& b, Range h) {
    const auto through = [&](const Tensor& dy, const Tensor& w) {
      return Factors{part(dy, 0, b.rows), part(w, 1, h)};
    };
    sum_of_products(
        {through(d.dgate_RF, layer.weights.gate[b.expert]), through(d.dup_RF, layer.weights.up[b.expert])},
        part(part(dx_RH, 0, b.rows), 1, h));
  });
  if (!out.weights.gate.empty()) weights_backward(group, dy_RH, in_RH, d, out.weights);
}

// The same of ATen's operations for the rows of an expert, for other dtypes and devices.
void expert_backward_composed(std::size_t e, Range rows, const Tensor& token_R, const Tensor& dy_NH,
                              const Layer& layer, const Gradients& out) {
  const at::ScalarType dtype = dy_NH.scalar_type(), wide = dtype == at::kDouble ? dtype : at::kFloat;
  const auto weight_of = [&](at::TensorList all) { return all[e].to(dtype); };
  const Tensor in = layer.x_NH.index_select(0, token_R), dy = dy_NH.index_select(0, token_R),
               weight = part(layer.weight_R, 0, rows).unsqueeze(1).to(wide),
               gate = part(layer.gate_PF, 0, rows).to(wide), up = part(layer.up_PF, 0, rows).to(wide),
               da = at::mm(dy, weight_of(layer.weights.down)).to(wide), a = swiglu(gate, up);
  const auto [dgate_wide, dup_wide] = swiglu_backward(da * weight, gate, up);
  const Tensor dgate = dgate_wide.to(dtype), dup = dup_wide.to(dtype);
  part(out.dweight_R, 0, rows).copy_((da * a).sum(/*dim=*/1));
  Tensor dx = part(out.dx_PH, 0, rows);
  at::addmm_out(dx, at::mm(dgate, weight_of(layer.weights.gate)), dup, weight_of(layer.weights.up));
  if (out.weights.gate.empty()) return;
  out.weights.gate[e].copy_(at::mm(dgate.t(), in));
  out.weights.up[e].copy_(at::mm(dup.t(), in));
  out.weights.down[e].copy_(at::mm(dy.t(), (a * weight).to(dtype)));
}

// Gradients of x and weight_P; those of the weights go where `out` says.
std::tuple<Tensor, Tensor> backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P,
                                    const Tensor& expert_P, const Tensor& weight_P, const Weights& weights,
                                    const Tensor& gate_PF, const Tensor& up_PF, const Weights& out) {
  check_experts(x_NH, token_P, expert_P, weight_P, weights.gate, weights.up, weights.down);
  const ExpertPlan plan =
      make_expert_plan(token_P, expert_P, x_NH.size(0), static_cast<std::int64_t>(weights.gate.size()));
  const Layer layer{x_NH.contiguous(), weight_P.index_select(0, beside(x_NH, plan.row_pair)), weights,
                    gate_PF, up_PF};
  const Tensor dy = dy_NH.contiguous();
  const Gradients to{at::empty({token_P.size(0), x_NH.size(1)}, x_NH.options()),
                     at::empty_like(layer.weight_R), out};
  for (std::size_t e = 0; e < out.gate.size(); ++e)  // where no row comes
    if (plan.expert_begin[e] == plan.expert_begin[e + 1])
      for (const at::TensorList all : {out.gate, out.up, out.down}) all[e].zero_();
  if (have_kernels(x_NH, weights.gate, weights.up, weights.down) &&
      layer.weight_R.scalar_type() == at::kFloat) {
    const std::int64_t bytes_a_row = 3 * gate_PF.size(1) * static_cast<std::int64_t>(x_NH.element_size());
    for (const Group& group : groups_of(plan, bytes_a_row, /*whole=*/true))
      group_backward(group, plan, dy, layer, to);
  } else {
    const Tensor token = beside(x_NH, plan.row_token);
    for (std::size_t e = 0; e < weights.gate.size(); ++e) {
      const Range rows{plan.expert_begin[e], plan.expert_begin[e + 1] - plan.expert_begin[e]};
      if (rows.size > 0) expert_backward_composed(e, rows, part(token, 0, rows), dy, layer, to);
    }
  }
  return {combine(plan, to.dx_PH, {}), to.dweight_R.index_select(0, beside(x_NH, plan.pair_row))};
}

std::vector<Tensor> empty_like_all(at::TensorList all, bool wanted) {
  std::vector<Tensor> out;
  for (std::size_t i = 0; wanted && i < all.size(); ++i)
    out.push_back(at::empty_like(all[i], at::MemoryFormat::Contiguous));
  return out;
}

}  // namespace

ExpertGradients experts_backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P,
                                 const Tensor& expert_P, const Tensor& weight_P, at::TensorList gate,
                                 at::TensorList up, at::TensorList down, const Tensor& gate_PF,
                                 const Tensor& up_PF, bool for_weights) {
  const auto dgate = empty_like_all(gate, for_weights), dup = empty_like_all(up, for_weights),
             ddown = empty_like_all(down, for_weights);
  const auto [dx, dweight] = backward(dy_NH, x_NH, token_P, expert_P, weight_P, {gate, up, down}, gate_PF,
                                      up_PF, {dgate, dup, ddown});
  return {dx, dweight, dgate, dup, ddown};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> experts_stacked_backward(
    const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P,
    const Tensor& weight_P, const Tensor& gate_up, const Tensor& down, const Tensor& gate_PF,
    const Tensor& up_PF) {
  const Tensor dgate_up = at::empty_like(gate_up, at::MemoryFormat::Contiguous),
               ddown = at::empty_like(down, at::MemoryFormat::Contiguous);
  const Unstacked weights = unstack(gate_up, down), out = unstack(dgate_up, ddown);
  const auto [dx, dweight] =
      backward(dy_NH, x_NH, token_P, expert_P, weight_P, {weights.gate, weights.up, weights.down}, gate_PF,
               up_PF, {out.gate, out.up, out.down});
  return {dx, dweight, dgate_up, ddown};
}

}  // namespace upmoe::ops::raw
