#pragma once
// Loops over the numbers of a row, inside of upmoe/ops. The vector versions include nothing else of ours: see
// tensor/convert_kernels.h. They add in different orders, so their last bits differ from level to level.
#include <cstddef>
#include <cstdint>

namespace upmoe::ops {

struct Bf16 {
  std::uint16_t bits;
};

// Two matrices whose rows, and the columns of a, begin every so many numbers; k: columns of a, rows of b.
template <class T>
struct PairOf {
  const T *a, *b;
  std::size_t row_a, column_a, row_b, k;
};

// T is float or Bf16. Where transformers rounds to the dtype of the model in between, so do these.
template <class T>
struct KernelsOf {
  // out[r][n] = <x[r], w[n]>; rows of x, w and out begin every k, stride_w and stride_out numbers.
  void (*dots)(const float* x, std::size_t rows, const T* w, std::size_t stride_w, std::size_t n,
               std::size_t k, float* out, std::size_t stride_out);
  // out[m][n] = the sum over all pairs, and over k, of a[m][k] b[k][n], in float32 inside.
  void (*multiply)(const PairOf<T>* pairs, std::size_t count, std::size_t m, std::size_t n, T* out,
                   std::size_t row_out);
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
  // The largest number; NaN if one of them is not finite.
  float (*max)(const T* x, std::size_t count);
  // The largest in size; infinite or NaN if one of them is.
  float (*largest)(const T* x, std::size_t count);
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
  // to[c][r] = from[r][c] of words of 32 bits; rows begin every `stride` bytes, and every stride_to words.
  void (*transpose)(const void* from, std::size_t stride, std::size_t rows, std::size_t columns,
                    std::uint32_t* to, std::size_t stride_to);
  // out[i] holds a[i], and b[i] in its upper half.
  void (*interleave)(const Bf16* a, const Bf16* b, std::size_t count, std::uint32_t* out);
};
extern const Kernels kKernelsPlain, kKernelsAvx2, kKernelsAvx512;

}  // namespace upmoe::ops
