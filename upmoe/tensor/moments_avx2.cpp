#include <immintrin.h>

#include "upmoe/tensor/moments_kernels.h"

namespace upmoe {
namespace {

inline __attribute__((always_inline)) __m256d load(const float* x) {
  return _mm256_cvtps_pd(_mm_loadu_ps(x));
}

// Not an fma: each step rounds, as in the scalar code.
inline __attribute__((always_inline)) __m256d add_square(__m256d sum, __m256d d) {
  return _mm256_add_pd(sum, _mm256_mul_pd(d, d));
}

double in_pairs(const double l[8]) {
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

template <std::size_t kRows>
void rows_of(const float* x, std::size_t stride, std::size_t count, double* mean, double* m2) {
  const std::size_t whole = count / 8 * 8;
  __m256d low[kRows], high[kRows], middle[kRows];  // lanes 0 to 3 and 4 to 7
  double lane[8];
#pragma GCC unroll 2
  for (std::size_t r = 0; r < kRows; ++r) low[r] = high[r] = _mm256_setzero_pd();
  for (std::size_t i = 0; i < whole; i += 8) {
#pragma GCC unroll 2
    for (std::size_t r = 0; r < kRows; ++r) {
      low[r] = _mm256_add_pd(low[r], load(x + r * stride + i));
      high[r] = _mm256_add_pd(high[r], load(x + r * stride + i + 4));
    }
  }
#pragma GCC unroll 2
  for (std::size_t r = 0; r < kRows; ++r) {
    _mm256_storeu_pd(lane, low[r]);
    _mm256_storeu_pd(lane + 4, high[r]);
    for (std::size_t i = whole; i < count; ++i) lane[i - whole] += double(x[r * stride + i]);
    mean[r] = in_pairs(lane) / double(count);
    middle[r] = _mm256_set1_pd(mean[r]);
    low[r] = high[r] = _mm256_setzero_pd();
  }
  for (std::size_t i = 0; i < whole; i += 8) {
#pragma GCC unroll 2
    for (std::size_t r = 0; r < kRows; ++r) {
      low[r] = add_square(low[r], _mm256_sub_pd(load(x + r * stride + i), middle[r]));
      high[r] = add_square(high[r], _mm256_sub_pd(load(x + r * stride + i + 4), middle[r]));
    }
  }
#pragma GCC unroll 2
  for (std::size_t r = 0; r < kRows; ++r) {
    _mm256_storeu_pd(lane, low[r]);
    _mm256_storeu_pd(lane + 4, high[r]);
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

// 4 x kFours columns.
template <std::size_t kFours>
inline __attribute__((always_inline)) void columns_of(const float* tile, std::size_t stride, std::size_t rows,
                                                      double* mean, double* m2) {
  __m256d sum[kFours], middle[kFours];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kFours; ++v) sum[v] = _mm256_setzero_pd();
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kFours; ++v) sum[v] = _mm256_add_pd(sum[v], load(tile + r * stride + 4 * v));
  }
  const __m256d count = _mm256_set1_pd(double(rows));
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kFours; ++v) {
    middle[v] = _mm256_div_pd(sum[v], count);
    _mm256_storeu_pd(mean + 4 * v, middle[v]);
    sum[v] = _mm256_setzero_pd();
  }
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kFours; ++v)
      sum[v] = add_square(sum[v], _mm256_sub_pd(load(tile + r * stride + 4 * v), middle[v]));
  }
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kFours; ++v) _mm256_storeu_pd(m2 + 4 * v, sum[v]);
}

void columns(const float* tile, std::size_t stride, std::size_t rows, std::size_t cols, double* mean,
             double* m2) {
  std::size_t c = 0;
  for (; c + 16 <= cols; c += 16) columns_of<4>(tile + c, stride, rows, mean + c, m2 + c);
  for (; c < cols; c += 8) columns_of<2>(tile + c, stride, rows, mean + c, m2 + c);
}

}  // namespace

const MomentsKernels kMomentsAvx2 = {rows, columns};

}  // namespace upmoe
