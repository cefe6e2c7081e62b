#pragma once
#include "upmoe/ops/ops.h"

// The functions of ops.h as they are defined: short, slow in places, for every device and dtype.
namespace upmoe::ops::reference {

at::Tensor rms_norm(const at::Tensor& x_NH, const at::Tensor& weight_H, double eps);
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O = {});
at::Tensor swiglu(const at::Tensor& gate_NF, const at::Tensor& up_NF);
at::Tensor rotate(const at::Tensor& x_BTQD, const at::Tensor& cos_BTd, const at::Tensor& sin_BTd);
at::Tensor attention(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
                     const at::Tensor& mask_B1TS);
at::Tensor experts(const at::Tensor& x_NH, const at::Tensor& token_P, const at::Tensor& expert_P,
                   const at::Tensor& weight_P, const ExpertWeights& experts);
at::Tensor token_nll(const at::Tensor& hidden_NH, const at::Tensor& head_VH, const at::Tensor& target_N);

}  // namespace upmoe::ops::reference
