#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/ops.h"

namespace upmoe::ops {

at::Tensor attention(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
                     const at::Tensor& mask_B1TS) {
  require(q_BTQD.dim() == 4 && k_BSGD.dim() == 4 && k_BSGD.size(2) > 0 && k_BSGD.sizes() == v_BSGD.sizes() &&
              q_BTQD.size(2) % k_BSGD.size(2) == 0,
          "attention: the heads of q, k and v do not fit together");
  const std::int64_t T = q_BTQD.size(1), S = k_BSGD.size(1), group = q_BTQD.size(2) / k_BSGD.size(2);
  require(mask_B1TS.defined() || T == S || T == 1, "attention: {} positions that see {} need a mask", T, S);
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
