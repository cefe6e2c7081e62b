#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include "upmoe/ops/expert_plan.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {
namespace {

// Of the rows of one expert.
struct NeuronGradients {
  Tensor dgate_RF, dup_RF, scaled_RF;  // scaled: weight * silu(gate) * up
  Tensor dweight_R;
};

// da: gradient of silu(gate) * up without the pair's weight.
NeuronGradients neurons_backward(const Tensor& da, const Tensor& gate, const Tensor& up,
                                 const Tensor& weight_R) {
  if (has_kernels(da) && weight_R.scalar_type() == at::kFloat) {
    const NeuronGradients out{at::empty_like(da), at::empty_like(da), at::empty_like(da),
                              at::empty_like(weight_R)};
    const std::int64_t F = da.size(1);
    with_kernels(da.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
      for_each_row(da.size(0), F, [&](std::int64_t r) {
        const auto row = [&](const Tensor& x) { return data<T>(x) + r * F; };
        data<float>(out.dweight_R)[r] =
            k.swiglu_backward(row(da), row(gate), row(up), data<float>(weight_R)[r], F, row(out.dgate_RF),
                              row(out.dup_RF), row(out.scaled_RF));
      });
    });
    return out;
  }
  const at::ScalarType dtype = da.scalar_type(), wide = dtype == at::kDouble ? dtype : at::kFloat;
  const Tensor weight = weight_R.unsqueeze(1).to(wide), a = swiglu(gate.to(wide), up.to(wide));
  const auto [dgate, dup] = swiglu_backward(da.to(wide) * weight, gate.to(wide), up.to(wide));
  return {dgate.to(dtype), dup.to(dtype), (a * weight).to(dtype),
          (da.to(wide) * a).sum(/*dim=*/1).to(weight_R.scalar_type())};
}

// Where the gradients of the weights go; empty lists: nowhere.
struct WeightGradients {
  at::TensorList gate, up, down;
};

// out = dy^T x, or zeros where no row came.
void write_gradient(at::TensorList all, std::size_t e, const Tensor& dy, const Tensor& x) {
  if (all.empty()) return;
  Tensor out = all[e];
  if (!dy.defined())
    out.zero_();
  else if (out.scalar_type() == x.scalar_type())
    at::mm_out(out, dy.t(), x);
  else
    out.copy_(at::mm(dy.t(), x));
}

// Gradients of x and weight_P.
std::tuple<Tensor, Tensor> backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P,
                                    const Tensor& expert_P, const Tensor& weight_P, at::TensorList gate,
                                    at::TensorList up, at::TensorList down, const Tensor& gate_PF,
                                    const Tensor& up_PF, const WeightGradients& out) {
  check_experts(x_NH, token_P, expert_P, weight_P, gate, up, down);
  const at::ScalarType dtype = x_NH.scalar_type();
  const ExpertPlan plan =
      make_expert_plan(token_P, expert_P, x_NH.size(0), static_cast<std::int64_t>(gate.size()));
  const Tensor row_token = beside(x_NH, plan.row_token);
  const Tensor weight_R = weight_P.index_select(0, beside(x_NH, plan.row_pair)),
               dweight_R = at::empty_like(weight_R),
               dx_PH = at::empty({token_P.size(0), x_NH.size(1)}, x_NH.options());
  for (std::size_t e = 0; e < gate.size(); ++e) {
    const std::int64_t begin = plan.expert_begin[e], rows = plan.expert_begin[e + 1] - begin;
    NeuronGradients d;
    Tensor in, dy;
    if (rows > 0) {
      const Tensor token = row_token.narrow(0, begin, rows);
      in = x_NH.index_select(0, token);
      dy = dy_NH.index_select(0, token);
      d = neurons_backward(at::mm(dy, down[e].to(dtype)), gate_PF.narrow(0, begin, rows),
                           up_PF.narrow(0, begin, rows), weight_R.narrow(0, begin, rows));
      dweight_R.narrow(0, begin, rows).copy_(d.dweight_R);
      Tensor dx = dx_PH.narrow(0, begin, rows);
      at::addmm_out(dx, at::mm(d.dgate_RF, gate[e].to(dtype)), d.dup_RF, up[e].to(dtype));
    }
    write_gradient(out.gate, e, d.dgate_RF, in);
    write_gradient(out.up, e, d.dup_RF, in);
    write_gradient(out.down, e, dy, d.scaled_RF);
  }
  return {combine(plan, dx_PH, {}), dweight_R.index_select(0, beside(x_NH, plan.pair_row))};
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
  const auto [dx, dweight] =
      backward(dy_NH, x_NH, token_P, expert_P, weight_P, gate, up, down, gate_PF, up_PF, {dgate, dup, ddown});
  return {dx, dweight, dgate, dup, ddown};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> experts_stacked_backward(
    const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P,
    const Tensor& weight_P, const Tensor& gate_up, const Tensor& down, const Tensor& gate_PF,
    const Tensor& up_PF) {
  const Tensor dgate_up = at::empty_like(gate_up, at::MemoryFormat::Contiguous),
               ddown = at::empty_like(down, at::MemoryFormat::Contiguous);
  const Unstacked weights = unstack(gate_up, down), out = unstack(dgate_up, ddown);
  const auto [dx, dweight] = backward(dy_NH, x_NH, token_P, expert_P, weight_P, weights.gate, weights.up,
                                      weights.down, gate_PF, up_PF, {out.gate, out.up, out.down});
  return {dx, dweight, dgate_up, ddown};
}

}  // namespace upmoe::ops::raw
