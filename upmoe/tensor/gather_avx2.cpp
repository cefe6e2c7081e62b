#include <immintrin.h>

#include "upmoe/tensor/gather_kernels.h"

namespace upmoe {
namespace {

// Transposes K x K elements within each 128-bit lane of K rows, K = 8 or 4.
template <int kElement>
inline __attribute__((always_inline)) void turn_lanes(__m256i* r) {
  if constexpr (kElement == 2) {
    __m256i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      a[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
      a[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int from = i / 2 * 4 + i % 2;
      b[2 * i] = _mm256_unpacklo_epi32(a[from], a[from + 2]);
      b[2 * i + 1] = _mm256_unpackhi_epi32(a[from], a[from + 2]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      r[2 * i] = _mm256_unpacklo_epi64(b[i], b[4 + i]);
      r[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[4 + i]);
    }
  } else {
    const __m256i a0 = _mm256_unpacklo_epi32(r[0], r[1]), a1 = _mm256_unpackhi_epi32(r[0], r[1]);
    const __m256i a2 = _mm256_unpacklo_epi32(r[2], r[3]), a3 = _mm256_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm256_unpacklo_epi64(a0, a2);
    r[1] = _mm256_unpackhi_epi64(a0, a2);
    r[2] = _mm256_unpacklo_epi64(a1, a3);
    r[3] = _mm256_unpackhi_epi64(a1, a3);
  }
}

// Transposes R x R elements in R registers, R = 16 or 8.
template <int kElement>
inline __attribute__((always_inline)) void turn(__m256i* r) {
  constexpr int K = 16 / kElement;
  turn_lanes<kElement>(r);
  turn_lanes<kElement>(r + K);
  // Lane L of r[g K + k] has column L K + k of rows g K to g K + K - 1.
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    const __m256i low = r[k], high = r[K + k];
    r[k] = _mm256_permute2x128_si256(low, high, 0x20);
    r[K + k] = _mm256_permute2x128_si256(low, high, 0x31);
  }
}

__m256i load(const unsigned char* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
void store(unsigned char* to, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }

template <int kElement, bool kAllRows>
void columns(const ColumnStrip& s) {
  constexpr std::size_t R = 32 / kElement;
  __m256i r[R];
  std::size_t c = 0;
  for (; c + R <= s.cols; c += R) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
      r[i] = kAllRows || i < s.rows ? load(s.in + i * s.in_stride + c * kElement) : _mm256_setzero_si256();
    turn<kElement>(r);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i) store(s.turned + (c + i) * 32, r[i]);
  }
  if (c < s.cols) {
    const std::size_t width = s.cols - c;
    for (std::size_t i = 0; i < R; ++i) {
      r[i] = _mm256_setzero_si256();
      if (i < s.rows) __builtin_memcpy(&r[i], s.in + i * s.in_stride + c * kElement, width * kElement);
    }
    turn<kElement>(r);
    for (std::size_t i = 0; i < width; ++i) store(s.turned + (c + i) * 32, r[i]);
  }
  std::size_t j = 0;
  for (; j + R <= s.count; j += R) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i) r[i] = load(s.turned + std::size_t(s.index[j + i]) * 32);
    turn<kElement>(r);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
      if (kAllRows || i < s.rows) store(s.out + i * s.out_stride + j * kElement, r[i]);
  }
  if (j < s.count) {
    const std::size_t width = s.count - j;
    for (std::size_t i = 0; i < R; ++i)
      r[i] = i < width ? load(s.turned + std::size_t(s.index[j + i]) * 32) : _mm256_setzero_si256();
    turn<kElement>(r);
    for (std::size_t i = 0; i < s.rows; ++i)
      __builtin_memcpy(s.out + i * s.out_stride + j * kElement, &r[i], width * kElement);
  }
}

template <int kElement>
void strip(const ColumnStrip& s) {
  s.rows == 32 / kElement ? columns<kElement, true>(s) : columns<kElement, false>(s);
}

}  // namespace

const GatherKernels kGatherAvx2 = {32, strip<2>, strip<4>};

}  // namespace upmoe
