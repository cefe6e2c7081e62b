#include "upmoe/ops/ops.h"

#include "upmoe/ops/reference.h"

namespace upmoe::ops {

at::Tensor rms_norm(const at::Tensor& x_NH, const at::Tensor& weight_H, double eps) {
  return reference::rms_norm(x_NH, weight_H, eps);
}
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O) {
  return reference::linear(x_NI, weight_OI, bias_O);
}
at::Tensor swiglu(const at::Tensor& gate_NF, const at::Tensor& up_NF) {
  return reference::swiglu(gate_NF, up_NF);
}
at::Tensor rotate(const at::Tensor& x_BTQD, const at::Tensor& cos_BTd, const at::Tensor& sin_BTd) {
  return reference::rotate(x_BTQD, cos_BTd, sin_BTd);
}
at::Tensor attention(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
                     const at::Tensor& mask_B1TS) {
  return reference::attention(q_BTQD, k_BSGD, v_BSGD, mask_B1TS);
}
at::Tensor experts(const at::Tensor& x_NH, const at::Tensor& token_P, const at::Tensor& expert_P,
                   const at::Tensor& weight_P, const ExpertWeights& weights) {
  return reference::experts(x_NH, token_P, expert_P, weight_P, weights);
}
at::Tensor token_nll(const at::Tensor& hidden_NH, const at::Tensor& head_VH, const at::Tensor& target_N) {
  return reference::token_nll(hidden_NH, head_VH, target_N);
}

}  // namespace upmoe::ops
