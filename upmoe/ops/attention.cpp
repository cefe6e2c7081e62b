#include <ATen/ops/empty.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/product.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace upmoe::ops::raw {
namespace {

enum Slot { kQuery, kScore, kWeight, kOut };
// Below, torch's own kernel is as fast; above, a thread would keep more than 8 MB of scores.
constexpr std::int64_t kLeast = 128, kMost = 8192;
// Rows of a tile, about: heads that share k and v, at some positions.
constexpr std::int64_t kQueries = 256, kMostHeads = 16;

void check(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask) {
  require(
      q.dim() == 4 && k.dim() == 4 && k.size(2) > 0 && k.sizes() == v.sizes() && q.size(2) % k.size(2) == 0,
      "attention: the heads of q, k and v do not fit together");
  const std::int64_t T = q.size(1), S = k.size(1);
  require(mask || T == S || T == 1, "attention: {} positions that see {} need a mask", T, S);
}

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
  if (q.numel() == 0) return out;
  const std::vector<Range> heads = cut(group, kMostHeads, 1),
                           pieces =
                               cut(q.size(1), std::max<std::int64_t>(64, kQueries / heads[0].size / 64 * 64));
  const auto num_heads = static_cast<std::int64_t>(heads.size());
  with_kernels(q.scalar_type(), [&]<class T>(const KernelsOf<T>& kernel, T) {
    for_each_tile(static_cast<std::int64_t>(pieces.size()) * B * G * num_heads, [&](std::int64_t i) {
      const Range some = heads[static_cast<std::size_t>(i % num_heads)];
      const std::int64_t g = i / num_heads % G, b = i / num_heads / G % B;
      causal_tile(kernel, q.select(0, b), k.select(0, b).select(1, g), v.select(0, b).select(1, g),
                  g * group + some.begin, some.size, pieces[static_cast<std::size_t>(i / num_heads / G / B)],
                  out.select(0, b));
    });
  });
  return out;
}

}  // namespace

Tensor attention(const Tensor& q_BTQD, const Tensor& k_BSGD, const Tensor& v_BSGD,
                 const std::optional<Tensor>& mask_B1TS) {
  check(q_BTQD, k_BSGD, v_BSGD, mask_B1TS);
  const std::int64_t T = q_BTQD.size(1);
  const bool alike =
      q_BTQD.scalar_type() == k_BSGD.scalar_type() && q_BTQD.scalar_type() == v_BSGD.scalar_type();
  if (has_kernels(q_BTQD) && alike && !mask_B1TS && T >= kLeast && T <= kMost)
    return causal(q_BTQD, k_BSGD, v_BSGD);
  return attention_composed(q_BTQD, k_BSGD, v_BSGD, mask_B1TS).contiguous();
}

Tensor attention_composed(const Tensor& q_BTQD, const Tensor& k_BSGD, const Tensor& v_BSGD,
                          const std::optional<Tensor>& mask_B1TS) {
  check(q_BTQD, k_BSGD, v_BSGD, mask_B1TS);
  const std::int64_t T = q_BTQD.size(1), group = q_BTQD.size(2) / k_BSGD.size(2);
  const Tensor q = q_BTQD.transpose(1, 2);
  Tensor k = k_BSGD.transpose(1, 2), v = v_BSGD.transpose(1, 2);
  // On a GPU only the kernels for 16 bits know groups; of the others the one that keeps all scores would run.
  const bool expand =
      group > 1 && !q.is_cpu() && q.scalar_type() != at::kBFloat16 && q.scalar_type() != at::kHalf;
  if (expand) {
    k = k.repeat_interleave(group, /*dim=*/1);
    v = v.repeat_interleave(group, /*dim=*/1);
  }
  return at::scaled_dot_product_attention(q, k, v, mask_B1TS, /*dropout_p=*/0.0,
                                          /*is_causal=*/!mask_B1TS && T > 1,
                                          /*scale=*/std::nullopt, /*enable_gqa=*/group > 1 && !expand)
      .transpose(1, 2);
}

}  // namespace upmoe::ops::raw
