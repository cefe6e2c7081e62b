#include <immintrin.h>

#include "upmoe/tensor/moments_kernels.h"

namespace upmoe {
namespace {

inline __attribute__((always_inline)) __m512d load(const float* x) {
  return _mm512_cvtps_pd(_mm256_loadu_ps(x));
}

// Not an fma: each step rounds, as in the scalar code.
inline __attribute__((always_inline)) __m512d add_square(__m512d sum, __m512d d) {
  return _mm512_add_pd(sum, _mm512_mul_pd(d, d));
}

double in_pairs(const double l[8]) {
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

template <std::size_t kRows>
void rows_of(const float* x, std::size_t stride, std::size_t count, double* mean, double* m2) {
  const std::size_t whole = count / 8 * 8;
  __m512d sum[kRows], middle[kRows];
  double lane[8];
#pragma GCC unroll 2
  for (std::size_t r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_pd();
  for (std::size_t i = 0; i < whole; i += 8) {
#pragma GCC unroll 2
    for (std::size_t r = 0; r < kRows; ++r) sum[r] = _mm512_add_pd(sum[r], load(x + r * stride + i));
  }
#pragma GCC unroll 2
  for (std::size_t r = 0; r < kRows; ++r) {
    _mm512_storeu_pd(lane, sum[r]);
    for (std::size_t i = whole; i < count; ++i) lane[i - whole] += double(x[r * stride + i]);
    mean[r] = in_pairs(lane) / double(count);
    middle[r] = _mm512_set1_pd(mean[r]);
    sum[r] = _mm512_setzero_pd();
  }
  for (std::size_t i = 0; i < whole; i += 8) {
#pragma GCC unroll 2
    for (std::size_t r = 0; r < kRows; ++r)
      sum[r] = add_square(sum[r], _mm512_sub_pd(load(x + r * stride + i), middle[r]));
  }
#pragma GCC unroll 2
  for (std::size_t r = 0; r < kRows; ++r) {
    _mm512_storeu_pd(lane, sum[r]);
    for (std::size_t i = whole; i < count; ++i) {
      const double d = double(x[r * stride + i]) - mean[r];
      lane[i - whole] += d * d;
    }
    m2[r] = in_pairs(lane);
  }
}

void rows(const float* x, std::size_t stride, std::size_t rows, std::size_t count, double* mean, double* m2) {
  rows == 2 ? rows_of<2>(x, stride, count, mean, m2) : rows_of<1>(x, stride, count, mean, m2);
}

// 8 x kEights columns.
template <std::size_t kEights>
inline __attribute__((always_inline)) void columns_of(const float* tile, std::size_t stride, std::size_t rows,
                                                      double* mean, double* m2) {
  __m512d sum[kEights], middle[kEights];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kEights; ++v) sum[v] = _mm512_setzero_pd();
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kEights; ++v) sum[v] = _mm512_add_pd(sum[v], load(tile + r * stride + 8 * v));
  }
  const __m512d count = _mm512_set1_pd(double(rows));
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kEights; ++v) {
    middle[v] = _mm512_div_pd(sum[v], count);
    _mm512_storeu_pd(mean + 8 * v, middle[v]);
    sum[v] = _mm512_setzero_pd();
  }
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kEights; ++v)
      sum[v] = add_square(sum[v], _mm512_sub_pd(load(tile + r * stride + 8 * v), middle[v]));
  }
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kEights; ++v) _mm512_storeu_pd(m2 + 8 * v, sum[v]);
}

void columns(const float* tile, std::size_t stride, std::size_t rows, std::size_t cols, double* mean,
             double* m2) {
  std::size_t c = 0;
  for (; c + 32 <= cols; c += 32) columns_of<4>(tile + c, stride, rows, mean + c, m2 + c);
  for (; c < cols; c += 8) columns_of<1>(tile + c, stride, rows, mean + c, m2 + c);
}

}  // namespace

const MomentsKernels kMomentsAvx512 = {rows, columns};

}  // namespace upmoe
