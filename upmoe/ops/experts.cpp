#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/expert_tiles.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/raw.h"

namespace upmoe::ops::raw {
namespace {

struct Weights {
  at::TensorList gate, up, down;
};
struct Kept {
  Tensor gate_PF, up_PF;  // undefined: not kept
};

// out = silu(x gate^T) * (x up^T); gate and up are kept where there is a place for them.
void neurons_tile(const Tensor& x, const Tensor& gate_FH, const Tensor& up_FH, const Kept& kept,
                  const Tensor& out) {
  const bool keep = kept.gate_PF.defined();
  const std::int64_t R = x.size(0), F = gate_FH.size(0);
  const Tensor gate = keep ? kept.gate_PF : scratch(/*slot=*/0, R, F, out.scalar_type()),
               up = keep ? kept.up_PF : scratch(/*slot=*/1, R, F, out.scalar_type());
  product(x, gate_FH.t(), gate);
  product(x, up_FH.t(), up);
  with_kernels(out.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t r = 0; r < R; ++r)
      k.swiglu(data<T>(gate) + r * gate.stride(0), data<T>(up) + r * up.stride(0),
               static_cast<std::size_t>(F), data<T>(out) + r * out.stride(0));
  });
}

Tensor run(const Tensor& x_NH, const ExpertPlan& plan, const Weights& weights, const Kept& kept) {
  const std::int64_t P = static_cast<std::int64_t>(plan.row_token.size()), H = x_NH.size(1),
                     F = weights.gate[0].size(0);
  const Tensor y_PH = at::empty({P, H}, x_NH.options());
  for (const Group& group :
       groups_of(plan, F * static_cast<std::int64_t>(x_NH.element_size()), /*whole=*/false)) {
    const Tensor in_RH = for_products(gather(x_NH, plan, group.rows)), y_RH = part(y_PH, 0, group.rows),
                 neuron_RF = at::empty({group.rows.size, F}, x_NH.options());
    for_each_tile_of(group, F, [&](const Block& b, Range f) {
      const auto tile = [&](const Tensor& all, std::int64_t first_row) {
        return all.defined() ? part(all.narrow(0, first_row + b.rows.begin, b.rows.size), 1, f) : all;
      };
      neurons_tile(
          part(in_RH, 0, b.rows), part(weights.gate[b.expert], 0, f), part(weights.up[b.expert], 0, f),
          {tile(kept.gate_PF, group.rows.begin), tile(kept.up_PF, group.rows.begin)}, tile(neuron_RF, 0));
    });
    const Tensor a_RF = for_products(neuron_RF);
    for_each_tile_of(group, H, [&](const Block& b, Range h) {
      product(part(a_RF, 0, b.rows), part(weights.down[b.expert], 0, h).t(),
              part(part(y_RH, 0, b.rows), 1, h));
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

Tensor run_and_combine(const Tensor& x, const Tensor& token, const Tensor& expert, const Tensor& weight_P,
                       const Weights& weights, const Kept& kept) {
  const ExpertPlan plan =
      make_expert_plan(token, expert, x.size(0), static_cast<std::int64_t>(weights.gate.size()));
  const Tensor y_PH = have_kernels(x, weights.gate, weights.up, weights.down)
                          ? run(x.contiguous(), plan, weights, kept)
                          : run_composed(x, plan, weights, kept);
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
