#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "upmoe/ops/ops.h"

// Tensors for the tests of the operations. ATen's generator is used, and nothing depends on what it draws.
namespace upmoe::ops {

inline at::Tensor draw(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::randn(shape, at::TensorOptions(at::kDouble)).to(dtype);
}

// How far apart two results may be, as a share of the largest number: some roundings of the dtype.
inline double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 2e-6 : dtype == at::kHalf ? 4e-3 : 2e-2;
}

inline void expect_near(const at::Tensor& got, const at::Tensor& expected, double share) {
  ASSERT_EQ(got.sizes(), expected.sizes());
  ASSERT_EQ(got.scalar_type(), expected.scalar_type());
  if (got.numel() == 0) return;
  const at::Tensor a = got.to(at::kDouble), b = expected.to(at::kDouble);
  const auto apart = (a - b).abs().max().item<double>(), largest = b.abs().max().item<double>();
  EXPECT_LE(apart, share * (largest + 1e-30)) << "largest number " << largest;
}

// Routed pairs and experts.
struct Routed {
  at::Tensor x_NH, token_P, expert_P, weight_P;
  ExpertWeights weights;
};

struct RoutedShape {
  std::int64_t tokens = 50, hidden = 48, neurons = 80, experts = 5, per_token = 2;
  at::ScalarType dtype = at::kFloat, weight_dtype = at::kFloat;
};

inline Routed routed(const RoutedShape& s, at::Tensor expert_P = {}) {
  Routed out;
  out.x_NH = draw({s.tokens, s.hidden}, s.dtype);
  out.token_P = at::arange(s.tokens, at::TensorOptions(at::kLong)).repeat_interleave(s.per_token);
  out.expert_P = expert_P.defined()
                     ? expert_P
                     : at::randint(s.experts, {s.tokens * s.per_token}, at::TensorOptions(at::kLong));
  out.weight_P = draw({s.tokens * s.per_token}, s.dtype == at::kDouble ? at::kDouble : at::kFloat).abs();
  for (std::int64_t e = 0; e < s.experts; ++e) {
    out.weights.gate_FH.push_back(draw({s.neurons, s.hidden}, s.weight_dtype));
    out.weights.up_FH.push_back(draw({s.neurons, s.hidden}, s.weight_dtype));
    out.weights.down_HF.push_back(draw({s.hidden, s.neurons}, s.weight_dtype));
  }
  return out;
}

}  // namespace upmoe::ops
