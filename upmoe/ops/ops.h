#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

// What models are made of, as functions of tensors. Every one has a plain version in reference.h, which the
// fast ones are tested against, and works with autograd. Shape letters: N tokens, B sequences, T positions, S
// positions attended to, Q heads, G key-value heads, D head size, H hidden size, I inputs, O outputs, F
// neurons, E experts, P routed pairs, V vocabulary.
namespace upmoe::ops {

// x / sqrt(mean(x^2) + eps) in float32, rounded to x's dtype, times the weight: transformers' order of
// roundings.
at::Tensor rms_norm(const at::Tensor& x_NH, const at::Tensor& weight_H, double eps);

// x W^T + b in x's dtype; weights of another dtype are brought to it for the time of the call.
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O = {});

// silu(gate) * up
at::Tensor swiglu(const at::Tensor& gate_NF, const at::Tensor& up_NF);

// Rotary embedding of heads whose first half is rotated with their second (NeoX). cos and sin: float32.
at::Tensor rotate(const at::Tensor& x_BTQD, const at::Tensor& cos_BTd, const at::Tensor& sin_BTd);

// Softmax attention, scaled by 1/sqrt(D). Undefined mask: with T = S each position sees itself and all
// before, with T = 1 all. mask: bool, true where a position is seen. Heads of q share those of k and v in
// groups of Q/G.
at::Tensor attention(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
                     const at::Tensor& mask_B1TS);

// The experts of a layer; views into larger tensors are welcome.
struct ExpertWeights {
  std::vector<at::Tensor> gate_FH, up_FH, down_HF;  // E of each
};

// For each token the sum over its pairs of weight * expert(x): in float32, in the order of the pairs, rounded
// to x's dtype at the end. Pairs must be sorted by token. token_P and expert_P: int64; weight_P: float32.
at::Tensor experts(const at::Tensor& x_NH, const at::Tensor& token_P, const at::Tensor& expert_P,
                   const at::Tensor& weight_P, const ExpertWeights& experts);

// Cross-entropy of each token against its target, float32 [N]; a target below 0 gives 0, and a token of which
// any logit is not finite NaN. Never holds all logits.
at::Tensor token_nll(const at::Tensor& hidden_NH, const at::Tensor& head_VH, const at::Tensor& target_N);

}  // namespace upmoe::ops
