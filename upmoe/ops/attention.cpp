#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/ops.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace upmoe::ops {
namespace {

enum Slot { kQuery, kScore, kWeight, kOut };
// Below, torch's own kernel is as fast; above, a thread would keep more than 8 MB of scores.
constexpr std::int64_t kLeast = 128, kMost = 8192;
constexpr std::int64_t kQueries = 256;  // rows of a tile: heads that share k and v, at some positions

// What positions [begin, begin + size) of one sequence get from one head of k and v, whose S_D are
// [positions, D].
template <class T>
void causal_tile(const KernelsOf<T>& kernel, const at::Tensor& q_TQD, const at::Tensor& k_SD,
                 const at::Tensor& v_SD, std::int64_t first_head, std::int64_t group, Range positions,
                 const at::Tensor& out_TQD) {
  const std::int64_t D = q_TQD.size(2), rows = positions.size * group, S = positions.begin + positions.size;
  // Few sizes for many lengths; rows a multiple of 4096 bytes apart would share a few lines of the cache.
  const std::int64_t terms = up_to(64, S), stride = up_to(256, S) + 32;
  const at::Tensor query = scratch(kQuery, rows, D, q_TQD.scalar_type()),
                   score = scratch(kScore, rows, stride, at::kFloat);
  const auto heads = [&](const at::Tensor& x, std::int64_t i) {
    return data<T>(x) + (positions.begin + i) * x.stride(0) + first_head * D;
  };
  const std::size_t heads_bytes = static_cast<std::size_t>(group * D) * sizeof(T);
  for (std::int64_t i = 0; i < positions.size; ++i)
    std::memcpy(data<T>(query) + i * group * D, heads(q_TQD, i), heads_bytes);
  product(query, k_SD.narrow(0, 0, S).t(),
          score.narrow(1, 0, S));  // scores are float32; only the weights are rounded
  const at::Tensor weight =
                       std::is_same_v<T, float> ? score : scratch(kWeight, rows, stride, q_TQD.scalar_type()),
                   out = scratch(kOut, rows, D, q_TQD.scalar_type());
  const float scale = 1 / std::sqrt(static_cast<float>(D));
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t seen = positions.begin + r / group + 1;
    T* row = data<T>(weight) + r * stride;
    kernel.softmax(data<float>(score) + r * stride, seen, scale, row);
    std::memset(row + seen, 0, static_cast<std::size_t>(terms - seen) * sizeof(T));
  }
  product(weight.narrow(1, 0, terms), v_SD.narrow(0, 0, S), out);
  for (std::int64_t i = 0; i < positions.size; ++i)
    std::memcpy(heads(out_TQD, i), data<T>(out) + i * group * D, heads_bytes);
}

// Everything of a tile's positions at once: no running maximum, and products large enough to be fast.
at::Tensor causal(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD) {
  const std::int64_t B = q_BTQD.size(0), G = k_BSGD.size(2), group = q_BTQD.size(2) / G;
  const at::Tensor q = q_BTQD.contiguous(), k = k_BSGD.contiguous(), v = v_BSGD.contiguous(),
                   out = at::empty(q.sizes(), q.options());
  const std::vector<Range> pieces = cut(q.size(1), std::max<std::int64_t>(64, kQueries / group / 64 * 64));
  with_kernels(q.scalar_type(), [&]<class T>(const KernelsOf<T>& kernel, T) {
    for_each_tile(static_cast<std::int64_t>(pieces.size()) * B * G, [&](std::int64_t i) {
      const std::int64_t g = i % G, b = i / G % B;
      causal_tile(kernel, q.select(0, b), k.select(0, b).select(1, g), v.select(0, b).select(1, g), g * group,
                  group, pieces[static_cast<std::size_t>(i / G / B)], out.select(0, b));
    });
  });
  return out;
}

}  // namespace

at::Tensor attention(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
                     const at::Tensor& mask_B1TS) {
  require(q_BTQD.dim() == 4 && k_BSGD.dim() == 4 && k_BSGD.size(2) > 0 && k_BSGD.sizes() == v_BSGD.sizes() &&
              q_BTQD.size(2) % k_BSGD.size(2) == 0,
          "attention: the heads of q, k and v do not fit together");
  const std::int64_t T = q_BTQD.size(1), S = k_BSGD.size(1), group = q_BTQD.size(2) / k_BSGD.size(2);
  require(mask_B1TS.defined() || T == S || T == 1, "attention: {} positions that see {} need a mask", T, S);
  const bool recorded = at::GradMode::is_enabled() &&
                        (q_BTQD.requires_grad() || k_BSGD.requires_grad() || v_BSGD.requires_grad());
  const bool alike =
      q_BTQD.scalar_type() == k_BSGD.scalar_type() && q_BTQD.scalar_type() == v_BSGD.scalar_type();
  if (has_kernels(q_BTQD) && alike && !recorded && !mask_B1TS.defined() && T >= kLeast && T <= kMost)
    return causal(q_BTQD, k_BSGD, v_BSGD);
  const at::Tensor q = q_BTQD.transpose(1, 2);
  at::Tensor k = k_BSGD.transpose(1, 2), v = v_BSGD.transpose(1, 2);
  // On a GPU only the kernels for 16 bits know groups; of the others the one that keeps all scores would run.
  const bool expand =
      group > 1 && !q.is_cpu() && q.scalar_type() != at::kBFloat16 && q.scalar_type() != at::kHalf;
  if (expand) {
    k = k.repeat_interleave(group, /*dim=*/1);
    v = v.repeat_interleave(group, /*dim=*/1);
  }
  const auto mask = mask_B1TS.defined() ? std::make_optional(mask_B1TS) : std::nullopt;
  return at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, /*is_causal=*/!mask && T > 1,
                                          /*scale=*/std::nullopt, /*enable_gqa=*/group > 1 && !expand)
      .transpose(1, 2);
}

}  // namespace upmoe::ops
