#include "upmoe/ops/largest.h"

#include <ATen/TensorOperators.h>

#include <cstdint>
#include <vector>

#include "upmoe/ops/tiles.h"

namespace upmoe::ops {
namespace {

constexpr std::int64_t kPiece = 1 << 16;  // numbers that a thread takes at once

}  // namespace

double largest(const at::Tensor& x) {
  if (x.numel() == 0) return 0;
  if (!has_kernels(x)) return x.detach().abs().max().item<double>();
  const at::Tensor all = x.contiguous();
  const std::vector<Range> pieces = cut(all.numel(), kPiece);
  std::vector<float> of_piece(pieces.size());
  with_kernels(all.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for_each_row(static_cast<std::int64_t>(pieces.size()), kPiece, [&](std::int64_t i) {
      const Range r = pieces[static_cast<std::size_t>(i)];
      of_piece[static_cast<std::size_t>(i)] =
          k.largest(data<T>(all) + r.begin, static_cast<std::size_t>(r.size));
    });
  });
  return kernels().of_float.largest(of_piece.data(), of_piece.size());
}

}  // namespace upmoe::ops
