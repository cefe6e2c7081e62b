#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "upmoe/ops/ops.h"

// The functions of ops.h and their gradients, without autograd: library.cpp puts them together. Gradients
// have the dtype of what they are of. ExpertWeights is taken apart, as torch's operators have no structs.
namespace upmoe::ops::raw {

using at::Tensor;

Tensor rms_norm(const Tensor& x_NH, const Tensor& weight_H, double eps);
std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& weight_H,
                                             double eps);

Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF);
std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& da_NF, const Tensor& gate_NF, const Tensor& up_NF);

// Its gradient is the rotation by -sin.
Tensor rotate(const Tensor& x_BTQD, const Tensor& cos_BTd, const Tensor& sin_BTd);

Tensor linear(const Tensor& x_NI, const Tensor& weight_OI, const std::optional<Tensor>& bias_O);

Tensor attention(const Tensor& q_BTQD, const Tensor& k_BSGD, const Tensor& v_BSGD,
                 const std::optional<Tensor>& mask_B1TS);
// The same of ATen's operations, which have gradients.
Tensor attention_composed(const Tensor& q_BTQD, const Tensor& k_BSGD, const Tensor& v_BSGD,
                          const std::optional<Tensor>& mask_B1TS);

Tensor experts(const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P, const Tensor& weight_P,
               at::TensorList gate, at::TensorList up, at::TensorList down);
// The same, and what the gates and ups gave, [P, F] with the pairs sorted by expert: for the gradients.
std::tuple<Tensor, Tensor, Tensor> experts_kept(const Tensor& x_NH, const Tensor& token_P,
                                                const Tensor& expert_P, const Tensor& weight_P,
                                                at::TensorList gate, at::TensorList up, at::TensorList down);
// Of x, weight_P, and of every gate, up and down: zeros where no token came, no tensors unless for_weights.
using ExpertGradients =
    std::tuple<Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>>;
ExpertGradients experts_backward(const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P,
                                 const Tensor& expert_P, const Tensor& weight_P, at::TensorList gate,
                                 at::TensorList up, at::TensorList down, const Tensor& gate_PF,
                                 const Tensor& up_PF, bool for_weights);

// The same of transformers' layout: gate_up [E, 2F, H], first the gate of an expert, then its up; down [E, H,
// F].
struct Unstacked {
  std::vector<Tensor> gate, up, down;  // views
};
Unstacked unstack(const Tensor& gate_up, const Tensor& down);
Tensor experts_stacked(const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P,
                       const Tensor& weight_P, const Tensor& gate_up, const Tensor& down);
std::tuple<Tensor, Tensor, Tensor> experts_stacked_kept(const Tensor& x_NH, const Tensor& token_P,
                                                        const Tensor& expert_P, const Tensor& weight_P,
                                                        const Tensor& gate_up, const Tensor& down);
std::tuple<Tensor, Tensor, Tensor, Tensor> experts_stacked_backward(
    const Tensor& dy_NH, const Tensor& x_NH, const Tensor& token_P, const Tensor& expert_P,
    const Tensor& weight_P, const Tensor& gate_up, const Tensor& down, const Tensor& gate_PF,
    const Tensor& up_PF);

Tensor token_nll(const Tensor& hidden_NH, const Tensor& head_VH, const Tensor& target_N);
std::tuple<Tensor, Tensor> token_nll_backward(const Tensor& dnll_N, const Tensor& hidden_NH,
                                              const Tensor& head_VH, const Tensor& target_N);

}  // namespace upmoe::ops::raw
