#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>

#include "upmoe/base/error.h"
#include "upmoe/ops/raw.h"
#include "upmoe/ops/reference.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops::raw {
namespace {

constexpr std::int64_t kPiece = 4096;  // numbers that a thread takes at once

void require_same(const Tensor& gate, const Tensor& up) {
  require(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(),
          "swiglu: gate and up are not alike in shape and dtype");
}

template <class F>
void for_each_piece(std::int64_t numbers, F f) {
  const std::vector<Range> pieces = cut(numbers, kPiece);
  for_each_row(static_cast<std::int64_t>(pieces.size()), kPiece,
               [&](std::int64_t i) { f(pieces[static_cast<std::size_t>(i)]); });
}

}  // namespace

Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF) {
  require_same(gate_NF, up_NF);
  if (!has_kernels(gate_NF)) return reference::swiglu(gate_NF, up_NF);
  const Tensor gate = gate_NF.contiguous(), up = up_NF.contiguous(), out = at::empty_like(gate);
  with_kernels(gate.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for_each_piece(gate.numel(), [&](Range r) {
      k.swiglu(data<T>(gate) + r.begin, data<T>(up) + r.begin, r.size, data<T>(out) + r.begin);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& da_NF, const Tensor& gate_NF, const Tensor& up_NF) {
  require_same(gate_NF, up_NF);
  if (!has_kernels(gate_NF)) {
    const Tensor sigmoid = at::sigmoid(gate_NF), silu = gate_NF * sigmoid;
    return {da_NF * up_NF * (sigmoid + silu * (1 - sigmoid)), da_NF * silu};
  }
  const Tensor da = da_NF.contiguous(), gate = gate_NF.contiguous(), up = up_NF.contiguous();
  const Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  with_kernels(gate.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for_each_piece(gate.numel(), [&](Range r) {
      k.swiglu_backward(data<T>(da) + r.begin, data<T>(gate) + r.begin, data<T>(up) + r.begin, /*weight=*/1,
                        r.size, data<T>(dgate) + r.begin, data<T>(dup) + r.begin, /*a=*/nullptr);
    });
  });
  return {dgate, dup};
}

}  // namespace upmoe::ops::raw
