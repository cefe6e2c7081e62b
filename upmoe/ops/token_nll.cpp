#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "upmoe/base/error.h"
#include "upmoe/ops/panel.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/reference.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {
namespace {

constexpr std::int64_t kChunkBytes = 32 << 20;  // of logits, where all of some tokens are needed at once

void check(const Tensor& hidden, const Tensor& head, const Tensor& target) {
  require(hidden.dim() == 2 && head.dim() == 2 && target.dim() == 1 && hidden.size(1) == head.size(1) &&
              hidden.size(0) == target.size(0) && target.scalar_type() == at::kLong,
          "token_nll: hidden states, head and int64 targets do not fit together");
  if (!target.is_cpu() || target.numel() == 0) return;
  const auto most = target.max().item<std::int64_t>();
  require(most < head.size(0), "token_nll: target {} of a vocabulary of {}", most, head.size(0));
}

std::vector<Range> chunks(const Tensor& hidden, const Tensor& head) {
  const std::int64_t bytes = std::max<std::int64_t>(1, head.size(0) * 4);
  return cut(hidden.size(0), std::max<std::int64_t>(16, kChunkBytes / bytes));
}

// What one tile of the vocabulary knows of a token: its largest logit, and the sum of exp(logit - largest);
// both are NaN if a logit is not finite.
struct Part {
  float most, sum;
};

double log_sum_exp(const Part* part, std::size_t count) {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max<double>(most, part[i].most);
  for (std::size_t i = 0; i < count; ++i)
    if (part[i].sum != 0) sum += part[i].sum * std::exp(part[i].most - most);
  return most + std::log(sum);
}

// Log of the sum of exp(logits) of every token, and the logit of its target: logits live in a core's cache.
struct Denominator {
  std::vector<double> log_sum;
  std::vector<float> picked;
};

Denominator denominator(const Tensor& hidden, const Tensor& head, const std::int64_t* target) {
  const auto N = static_cast<std::size_t>(hidden.size(0));
  const std::vector<Range> rows = cut(hidden.size(0), kTileRows),
                           columns = cut(head.size(0), kTileColumns, kPanelColumns);
  const Tensor x = for_products(hidden);
  Denominator out{std::vector<double>(N), std::vector<float>(N)};
  std::vector<Part> part(N * columns.size());
  for_each_tile(static_cast<std::int64_t>(rows.size() * columns.size()), [&](std::int64_t i) {
    const std::size_t c = static_cast<std::size_t>(i) % columns.size();
    const Range row = rows[static_cast<std::size_t>(i) / columns.size()], column = columns[c];
    const Tensor logits = scratch(/*slot=*/0, row.size, column.size, hidden.scalar_type());
    product(x.narrow(0, row.begin, row.size), head.narrow(0, column.begin, column.size).t(), logits);
    with_kernels(hidden.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
      for (std::int64_t r = 0; r < row.size; ++r) {
        const auto n = static_cast<std::size_t>(row.begin + r);
        const T* logit = data<T>(logits) + r * column.size;
        const auto count = static_cast<std::size_t>(column.size);
        const float most = k.max(logit, count);
        part[n * columns.size() + c] = {most, k.sum_exp(logit, count, most)};
        const std::int64_t t = target[n] - column.begin;
        if (t >= 0 && t < column.size) k.widen(logit + t, 1, &out.picked[n]);
      }
    });
  });
  for_each_row(hidden.size(0), static_cast<std::int64_t>(64 * columns.size()), [&](std::int64_t row) {
    const auto n = static_cast<std::size_t>(row);
    out.log_sum[n] = log_sum_exp(&part[n * columns.size()], columns.size());
  });
  return out;
}

// Gradient of the logits of some tokens, in place of the logits.
void logits_backward(const Tensor& logits_NV, const Tensor& dnll_N, const Tensor& target_N) {
  const auto V = static_cast<std::size_t>(logits_NV.size(1));
  const auto* target = target_N.const_data_ptr<std::int64_t>();
  with_kernels(logits_NV.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for_each_row(logits_NV.size(0), logits_NV.size(1), [&](std::int64_t n) {
      T* logit = data<T>(logits_NV) + n * logits_NV.size(1);
      const float most = k.max(logit, V), log_sum = most + std::log(k.sum_exp(logit, V, most));
      const float scale = target[n] < 0 ? 0 : data<float>(dnll_N)[n];
      float picked = 0;
      if (target[n] >= 0) k.widen(logit + target[n], 1, &picked);
      k.scaled_exp(logit, V, log_sum, scale);
      picked = scale * (std::exp(picked - log_sum) - 1);
      if (target[n] >= 0) k.round(&picked, 1, logit + target[n]);
    });
  });
}

// sum += dlogits^T x, of some tokens: nothing is rounded on the way to float32.
void add_to_head(const Tensor& dlogits_NV, const Tensor& x_NH, const Tensor& sum_VH) {
  if (!has_kernels(x_NH)) {
    Tensor(sum_VH).addmm_(dlogits_NV.t().to(sum_VH.scalar_type()), x_NH.to(sum_VH.scalar_type()));
    return;
  }
  constexpr std::int64_t kTile = 1024;  // both sides are laid out anew for each tile
  const std::vector<Range> words = cut(sum_VH.size(0), kTile), columns = cut(sum_VH.size(1), kTile);
  for_each_tile(static_cast<std::int64_t>(words.size() * columns.size()), [&](std::int64_t i) {
    const Range v = words[static_cast<std::size_t>(i) / columns.size()],
                h = columns[static_cast<std::size_t>(i) % columns.size()];
    const Tensor some = scratch(/*slot=*/0, v.size, h.size, at::kFloat);
    product(dlogits_NV.narrow(1, v.begin, v.size).t(), x_NH.narrow(1, h.begin, h.size), some);
    sum_VH.narrow(0, v.begin, v.size).narrow(1, h.begin, h.size).add_(some);
  });
}

}  // namespace

Tensor token_nll(const Tensor& hidden_NH, const Tensor& head_VH, const Tensor& target_N) {
  check(hidden_NH, head_VH, target_N);
  const std::int64_t N = hidden_NH.size(0);
  if (!has_kernels(hidden_NH) || !has_kernels(head_VH)) {
    const at::ScalarType dtype = hidden_NH.scalar_type();
    const Tensor out = at::zeros({N}, hidden_NH.options().dtype(dtype == at::kDouble ? dtype : at::kFloat));
    const Tensor head = head_VH.to(dtype);
    for (const Range r : chunks(hidden_NH, head))
      out.narrow(0, r.begin, r.size)
          .copy_(reference::token_nll(hidden_NH.narrow(0, r.begin, r.size), head,
                                      target_N.narrow(0, r.begin, r.size)));
    return out;
  }
  const Tensor target = target_N.contiguous(), out = at::empty({N}, hidden_NH.options().dtype(at::kFloat));
  const auto* t = target.const_data_ptr<std::int64_t>();
  const Denominator found = denominator(hidden_NH.contiguous(), head_VH, t);
  for (std::int64_t n = 0; n < N; ++n)
    data<float>(out)[n] = t[n] < 0 ? 0.0F
                                   : static_cast<float>(found.log_sum[static_cast<std::size_t>(n)] -
                                                        found.picked[static_cast<std::size_t>(n)]);
  return out;
}

std::tuple<Tensor, Tensor> token_nll_backward(const Tensor& dnll_N, const Tensor& hidden_NH,
                                              const Tensor& head_VH, const Tensor& target_N) {
  check(hidden_NH, head_VH, target_N);
  const at::ScalarType dtype = hidden_NH.scalar_type(), wide = dtype == at::kDouble ? dtype : at::kFloat;
  const Tensor head = head_VH.to(dtype), hidden = hidden_NH.contiguous(),
               dhidden = at::empty(hidden.sizes(), hidden.options());
  const Tensor dhead = at::zeros(head.sizes(), head.options().dtype(wide));
  for (const Range r : chunks(hidden, head)) {
    const Tensor x = hidden.narrow(0, r.begin, r.size),
                 target = target_N.narrow(0, r.begin, r.size).contiguous();
    const Tensor dnll = dnll_N.narrow(0, r.begin, r.size).to(wide).contiguous();
    Tensor dlogits = at::mm(x, head.t());
    if (has_kernels(hidden)) {
      logits_backward(dlogits, dnll, target);
    } else {
      const Tensor scale = dnll.masked_fill(target < 0, 0).unsqueeze(1),
                   known = target.clamp_min(0).unsqueeze(1);
      dlogits = (dlogits.to(wide).softmax(/*dim=*/1) * scale).scatter_add(1, known, -scale).to(dtype);
    }
    dhidden.narrow(0, r.begin, r.size).copy_(at::mm(dlogits, head));
    add_to_head(dlogits, x, dhead);
  }
  return {dhidden, dhead.to(head_VH.scalar_type())};
}

}  // namespace upmoe::ops::raw
