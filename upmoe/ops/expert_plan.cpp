#include "upmoe/ops/expert_plan.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "upmoe/base/error.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops {
namespace {

void check_matrices(at::TensorList all, std::size_t count, std::int64_t rows, std::int64_t columns,
                    const char* which) {
  require(all.size() == count, "experts: {} gates and {} {} weights", count, all.size(), which);
  for (const at::Tensor& w : all)
    require(w.dim() == 2 && w.size(0) == rows && w.size(1) == columns,
            "experts: a {} weight is not {} x {}, as x and the first gate ask for", which, rows, columns);
}

at::Tensor combine_rows(const ExpertPlan& plan, const at::Tensor& rows_PH, const at::Tensor& weight_P) {
  const std::int64_t N = static_cast<std::int64_t>(plan.token_begin.size()) - 1, H = rows_PH.size(1);
  const at::Tensor out = at::empty({N, H}, rows_PH.options());
  const float* weight = weight_P.defined() ? data<float>(weight_P) : nullptr;
  with_kernels(out.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for_each_row(N, H, [&](std::int64_t n) {
      float* sum = data<float>(scratch(/*slot=*/0, 1, H, at::kFloat));
      std::fill_n(sum, H, 0.0F);
      for (std::int64_t p = plan.token_begin[n]; p < plan.token_begin[n + 1]; ++p)
        k.add(weight == nullptr ? 1 : weight[p], data<T>(rows_PH) + plan.pair_row[p] * H, H, sum);
      k.round(sum, H, data<T>(out) + n * H);
    });
  });
  return out;
}

// All first pairs of tokens, all second, ...: within each no token comes twice, so the order is fixed.
at::Tensor combine_composed(const ExpertPlan& plan, const at::Tensor& rows_PH, const at::Tensor& weight_P) {
  const std::int64_t N = static_cast<std::int64_t>(plan.token_begin.size()) - 1;
  const at::ScalarType wide = rows_PH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor sum = at::zeros({N, rows_PH.size(1)}, rows_PH.options().dtype(wide));
  for (std::int64_t i = 0;; ++i) {
    std::vector<std::int64_t> token, pair, row;
    for (std::int64_t n = 0; n < N; ++n)
      if (const std::int64_t p = plan.token_begin[n] + i; p < plan.token_begin[n + 1]) {
        token.push_back(n);
        pair.push_back(p);
        row.push_back(plan.pair_row[p]);
      }
    if (token.empty()) return sum.to(rows_PH.scalar_type());
    at::Tensor y = rows_PH.index_select(0, beside(rows_PH, row)).to(wide);
    if (weight_P.defined()) y = y * weight_P.index_select(0, beside(rows_PH, pair)).unsqueeze(1);
    sum.index_add_(0, beside(rows_PH, token), y.to(wide));
  }
}

}  // namespace

ExpertPlan make_expert_plan(const at::Tensor& token_P, const at::Tensor& expert_P, std::int64_t tokens,
                            std::int64_t experts) {
  const at::Tensor token_cpu = token_P.cpu().contiguous(), expert_cpu = expert_P.cpu().contiguous();
  const auto* token = token_cpu.const_data_ptr<std::int64_t>();
  const auto* expert = expert_cpu.const_data_ptr<std::int64_t>();
  const auto P = static_cast<std::size_t>(token_P.size(0));
  ExpertPlan plan;
  plan.expert_begin.assign(static_cast<std::size_t>(experts) + 1, 0);
  plan.token_begin.assign(static_cast<std::size_t>(tokens) + 1, 0);
  for (std::size_t p = 0; p < P; ++p) {
    require(token[p] >= 0 && token[p] < tokens && expert[p] >= 0 && expert[p] < experts,
            "experts: pair {} is token {} and expert {}; there are {} tokens and {} experts", p, token[p],
            expert[p], tokens, experts);
    require(p == 0 || token[p - 1] <= token[p], "experts: the pairs are not sorted by token: pair {}", p);
    ++plan.expert_begin[static_cast<std::size_t>(expert[p]) + 1];
    ++plan.token_begin[static_cast<std::size_t>(token[p]) + 1];
  }
  for (auto* begin : {&plan.expert_begin, &plan.token_begin})
    for (std::size_t i = 1; i < begin->size(); ++i) (*begin)[i] += (*begin)[i - 1];
  plan.row_token.resize(P);
  plan.row_pair.resize(P);
  plan.pair_row.resize(P);
  std::vector<std::int64_t> next = plan.expert_begin;
  for (std::size_t p = 0; p < P; ++p) {
    const std::int64_t row = next[static_cast<std::size_t>(expert[p])]++;
    plan.row_token[static_cast<std::size_t>(row)] = token[p];
    plan.row_pair[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(p);
    plan.pair_row[p] = row;
  }
  return plan;
}

void check_experts(const at::Tensor& x_NH, const at::Tensor& token_P, const at::Tensor& expert_P,
                   const at::Tensor& weight_P, at::TensorList gate, at::TensorList up, at::TensorList down) {
  require(x_NH.dim() == 2 && token_P.dim() == 1 && token_P.sizes() == expert_P.sizes() &&
              token_P.sizes() == weight_P.sizes(),
          "experts: x is not a matrix, or the pairs' tokens, experts and weights differ in number");
  require(token_P.scalar_type() == at::kLong && expert_P.scalar_type() == at::kLong,
          "experts: the numbers of tokens and experts are not int64");
  require(!gate.empty() && gate[0].dim() == 2, "experts: no expert, or no matrix");
  const std::int64_t H = x_NH.size(1), F = gate[0].size(0);
  check_matrices(gate, gate.size(), F, H, "gate");
  check_matrices(up, gate.size(), F, H, "up");
  check_matrices(down, gate.size(), H, F, "down");
}

at::Tensor combine(const ExpertPlan& plan, const at::Tensor& rows_PH, const at::Tensor& weight_P) {
  const bool kernel = has_kernels(rows_PH) && (!weight_P.defined() || weight_P.scalar_type() == at::kFloat);
  return kernel
             ? combine_rows(plan, rows_PH.contiguous(), weight_P.defined() ? weight_P.contiguous() : weight_P)
             : combine_composed(plan, rows_PH, weight_P);
}

at::Tensor beside(const at::Tensor& other, const std::vector<std::int64_t>& numbers) {
  const auto size = static_cast<std::int64_t>(numbers.size());
  return at::from_blob(const_cast<std::int64_t*>(numbers.data()), {size}, at::TensorOptions(at::kLong))
      .to(other.device(), /*non_blocking=*/false, /*copy=*/true);
}

}  // namespace upmoe::ops
