#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>

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

}  // namespace

ExpertGradients experts_backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P,
                                 const Tensor& expert_P, const Tensor& weight_P, at::TensorList gate,
                                 at::TensorList up, at::TensorList down, const Tensor& gate_PF,
                                 const Tensor& up_PF, bool for_weights) {
  check_experts(x_NH, token_P, expert_P, weight_P, gate, up, down);
  const at::ScalarType dtype = x_NH.scalar_type();
  const ExpertPlan plan =
      make_expert_plan(token_P, expert_P, x_NH.size(0), static_cast<std::int64_t>(gate.size()));
  const Tensor row_token = beside(x_NH, plan.row_token);
  const Tensor weight_R = weight_P.index_select(0, beside(x_NH, plan.row_pair));
  const Tensor dx_PH = at::empty({token_P.size(0), x_NH.size(1)}, x_NH.options()),
               dweight_R = at::empty_like(weight_R);
  std::vector<Tensor> dgate, dup, ddown;
  const auto add_gradient = [&](std::vector<Tensor>& all, const Tensor& w, const Tensor& dout,
                                const Tensor& in) {
    if (!for_weights) return;
    all.push_back(dout.defined() ? at::mm(dout.t(), in).to(w.scalar_type()) : at::zeros_like(w));
  };
  for (std::size_t e = 0; e < gate.size(); ++e) {
    const std::int64_t begin = plan.expert_begin[e], rows = plan.expert_begin[e + 1] - begin;
    if (rows == 0) {
      add_gradient(dgate, gate[e], {}, {});
      add_gradient(dup, up[e], {}, {});
      add_gradient(ddown, down[e], {}, {});
      continue;
    }
    const Tensor token = row_token.narrow(0, begin, rows), in = x_NH.index_select(0, token),
                 dy = dy_NH.index_select(0, token);
    const NeuronGradients d = neurons_backward(at::mm(dy, down[e].to(dtype)), gate_PF.narrow(0, begin, rows),
                                               up_PF.narrow(0, begin, rows), weight_R.narrow(0, begin, rows));
    add_gradient(dgate, gate[e], d.dgate_RF, in);
    add_gradient(dup, up[e], d.dup_RF, in);
    add_gradient(ddown, down[e], dy, d.scaled_RF);
    dweight_R.narrow(0, begin, rows).copy_(d.dweight_R);
    Tensor dx = dx_PH.narrow(0, begin, rows);
    at::addmm_out(dx, at::mm(d.dgate_RF, gate[e].to(dtype)), d.dup_RF, up[e].to(dtype));
  }
  const Tensor dweight = dweight_R.index_select(0, beside(x_NH, plan.pair_row));
  return {combine(plan, dx_PH, {}), dweight, dgate, dup, ddown};
}

}  // namespace upmoe::ops::raw
