#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

// Inside of the experts operation: which rows go where. Shape letters: see ops.h.
namespace upmoe::ops {

// The pairs sorted by expert, and by token within an expert: each expert's rows lie together.
struct ExpertPlan {
  std::vector<std::int64_t> expert_begin;  // [E + 1] first row of each expert
  std::vector<std::int64_t> token_begin;   // [N + 1] first pair of each token
  std::vector<std::int64_t> row_token;     // [P] token of each row
  std::vector<std::int64_t> row_pair;      // [P] pair of each row
  std::vector<std::int64_t> pair_row;      // [P] and back
};

// Throws Error where a number is out of range or the pairs are not sorted by token. Waits for a GPU once.
ExpertPlan make_expert_plan(const at::Tensor& token_P, const at::Tensor& expert_P, std::int64_t tokens,
                            std::int64_t experts);

// Throws Error unless x, the pairs and every expert's weights fit together.
void check_experts(const at::Tensor& x_NH, const at::Tensor& token_P, const at::Tensor& expert_P,
                   const at::Tensor& weight_P, at::TensorList gate, at::TensorList up, at::TensorList down);

// For each token the sum over its pairs of weight * rows_PH[row of the pair], in float32 (float64 where rows
// are) and in the order of the pairs, rounded to the rows' dtype. Undefined weight: 1.
at::Tensor combine(const ExpertPlan& plan, const at::Tensor& rows_PH, const at::Tensor& weight_P);

// An int64 tensor beside another.
at::Tensor beside(const at::Tensor& other, const std::vector<std::int64_t>& numbers);

}  // namespace upmoe::ops
