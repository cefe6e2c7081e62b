#include "upmoe/ops/largest.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "upmoe/ops/tiles.h"

namespace upmoe::ops {
namespace {

constexpr std::int64_t kPiece = 1 << 16;  // numbers that a thread takes at once

// Without their signs, bits of numbers are in the order of the numbers; infinity comes next, then NaN.
template <class Bits, class T>
Bits largest_bits(const T* x, std::size_t count) {
  static_assert(sizeof(Bits) == sizeof(T));
  Bits most = 0;
  for (std::size_t i = 0; i < count; ++i)
    most = std::max(most, static_cast<Bits>(std::bit_cast<Bits>(x[i]) & std::numeric_limits<Bits>::max()));
  return most;
}

}  // namespace

float largest(const float* x, std::size_t count) {
  return std::bit_cast<float>(largest_bits<std::int32_t>(x, count));
}
float largest(const Bf16* x, std::size_t count) {
  return std::bit_cast<float>(std::int32_t{largest_bits<std::int16_t>(x, count)} << 16);
}

double largest(const at::Tensor& x) {
  if (x.numel() == 0) return 0;
  if (!has_kernels(x)) return x.detach().abs().max().item<double>();
  const at::Tensor all = x.contiguous();
  const std::vector<Range> pieces = cut(all.numel(), kPiece);
  std::vector<float> of_piece(pieces.size());
  with_kernels(all.scalar_type(), [&]<class T>(const auto& /*kernels*/, T) {
    for_each_row(static_cast<std::int64_t>(pieces.size()), kPiece, [&](std::int64_t i) {
      const Range r = pieces[static_cast<std::size_t>(i)];
      of_piece[static_cast<std::size_t>(i)] =
          largest(data<T>(all) + r.begin, static_cast<std::size_t>(r.size));
    });
  });
  return largest(of_piece.data(), of_piece.size());
}

}  // namespace upmoe::ops
