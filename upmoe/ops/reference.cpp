#include "upmoe/ops/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

namespace upmoe::ops::reference {

at::Tensor rms_norm(const at::Tensor& x_NH, const at::Tensor& weight_H, double eps) {
  const at::ScalarType wide = x_NH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor x = x_NH.to(wide);
  const at::Tensor normed = x * at::rsqrt(x.pow(2).mean(/*dim=*/-1, /*keepdim=*/true) + eps);
  return weight_H.to(x_NH.scalar_type()) * normed.to(x_NH.scalar_type());
}

at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O) {
  const at::ScalarType dtype = x_NI.scalar_type();
  return bias_O.defined() ? at::linear(x_NI, weight_OI.to(dtype), bias_O.to(dtype))
                          : at::linear(x_NI, weight_OI.to(dtype));
}

at::Tensor swiglu(const at::Tensor& gate_NF, const at::Tensor& up_NF) { return at::silu(gate_NF) * up_NF; }

at::Tensor rotate(const at::Tensor& x_BTQD, const at::Tensor& cos_BTd, const at::Tensor& sin_BTd) {
  const std::int64_t half = x_BTQD.size(-1) / 2;
  const at::Tensor first = x_BTQD.narrow(-1, 0, half), second = x_BTQD.narrow(-1, half, half);
  const at::Tensor cos = cos_BTd.unsqueeze(2).to(x_BTQD.scalar_type());
  const at::Tensor sin = sin_BTd.unsqueeze(2).to(x_BTQD.scalar_type());
  return at::cat({first * cos - second * sin, second * cos + first * sin}, /*dim=*/-1);
}

at::Tensor attention(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
                     const at::Tensor& mask_B1TS) {
  const std::int64_t T = q_BTQD.size(1), S = k_BSGD.size(1), group = q_BTQD.size(2) / k_BSGD.size(2);
  const at::Tensor q = q_BTQD.transpose(1, 2), k = k_BSGD.transpose(1, 2).repeat_interleave(group, /*dim=*/1),
                   v = v_BSGD.transpose(1, 2).repeat_interleave(group, /*dim=*/1);
  const at::Tensor seen =
      mask_B1TS.defined() ? mask_B1TS : at::ones({T, S}, q.options().dtype(at::kBool)).tril(S - T);
  const at::ScalarType wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor score =
      (q.matmul(k.transpose(-1, -2)) / std::sqrt(static_cast<double>(q.size(-1)))).to(wide);
  const at::Tensor weight = score.masked_fill(~seen, -std::numeric_limits<float>::infinity()).softmax(-1);
  return weight.to(q.scalar_type()).matmul(v).transpose(1, 2);
}

at::Tensor experts(const at::Tensor& x_NH, const at::Tensor& token_P, const at::Tensor& expert_P,
                   const at::Tensor& weight_P, const ExpertWeights& experts) {
  const at::ScalarType wide = x_NH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor y_NH = at::zeros(x_NH.sizes(), x_NH.options().dtype(wide));
  for (std::size_t e = 0; e < experts.gate_FH.size(); ++e) {
    const at::Tensor pair = (expert_P == static_cast<std::int64_t>(e)).nonzero().squeeze(1);
    const at::Tensor token = token_P.index_select(0, pair), x = x_NH.index_select(0, token);
    const at::Tensor a =
        swiglu(reference::linear(x, experts.gate_FH[e]), reference::linear(x, experts.up_FH[e]));
    const at::Tensor y =
        reference::linear(a, experts.down_HF[e]).to(wide) * weight_P.index_select(0, pair).unsqueeze(1);
    y_NH = y_NH.index_add(0, token, y);
  }
  return y_NH.to(x_NH.scalar_type());
}

at::Tensor token_nll(const at::Tensor& hidden_NH, const at::Tensor& head_VH, const at::Tensor& target_N) {
  const at::Tensor logits_NV = reference::linear(hidden_NH, head_VH);
  const at::Tensor wide = logits_NV.scalar_type() == at::kDouble ? logits_NV : logits_NV.to(at::kFloat);
  const at::Tensor nll_N = at::cross_entropy_loss(wide, target_N.masked_fill(target_N < 0, -100),
                                                  /*weight=*/{}, at::Reduction::None, /*ignore_index=*/-100);
  return nll_N.masked_fill(~wide.isfinite().all(/*dim=*/1) & (target_N >= 0),
                           std::numeric_limits<double>::quiet_NaN());
}

}  // namespace upmoe::ops::reference
