#pragma once
// Loops over the numbers of a row, inside of upmoe/ops. The vector versions include nothing else of ours: see
// tensor/convert_kernels.h. They add in different orders, so their last bits differ from level to level.
#include <cstddef>
#include <cstdint>

namespace upmoe::ops {

struct Bf16 {
  std::uint16_t bits;
};

// T is float or Bf16. Where transformers rounds to the dtype of the model in between, so do these.
template <class T>
struct KernelsOf {
  // out[r][n] = <x[r], w[n]>; rows of x, w and out begin every k, stride_w and stride_out numbers.
  void (*dots)(const float* x, std::size_t rows, const T* w, std::size_t stride_w, std::size_t n,
               std::size_t k, float* out, std::size_t stride_out);
  void (*rms_norm)(const T* x, const T* weight, std::size_t count, double eps, T* out);
  void (*swiglu)(const T* gate, const T* up, std::size_t count, T* out);
  // Gradients of swiglu times `weight`, given that of its result; returns <da, swiglu(gate, up)>. a: the
  // result times `weight`, or null.
  float (*swiglu_backward)(const T* da, const T* gate, const T* up, float weight, std::size_t count, T* dgate,
                           T* dup, T* a);
  void (*rotate)(const T* x, const float* cos, const float* sin, std::size_t half, T* out);
  // sum += weight * x
  void (*add)(float weight, const T* x, std::size_t count, float* sum);
  void (*round)(const float* x, std::size_t count, T* out);
  void (*widen)(const T* x, std::size_t count, float* out);
  float (*max)(const T* x, std::size_t count);
  // Sum of exp(x - offset).
  float (*sum_exp)(const T* x, std::size_t count, float offset);
  // x = scale * exp(x - offset)
  void (*scaled_exp)(T* x, std::size_t count, float offset, float scale);
  // out = softmax(scale * x); x is overwritten, and may be out.
  void (*softmax)(float* x, std::size_t count, float scale, T* out);
};

struct Kernels {
  KernelsOf<float> of_float;
  KernelsOf<Bf16> of_bf16;
};
extern const Kernels kKernelsPlain, kKernelsAvx2, kKernelsAvx512;

}  // namespace upmoe::ops
