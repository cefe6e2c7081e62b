#include <immintrin.h>

#include "upmoe/tensor/gather_kernels.h"

namespace upmoe {
namespace {

// Transposes K x K elements within each 128-bit lane of K rows, K = 8 or 4.
template <int kElement>
inline __attribute__((always_inline)) void turn_lanes(__m512i* r) {
  if constexpr (kElement == 2) {
    __m512i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      a[2 * i] = _mm512_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
      a[2 * i + 1] = _mm512_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int from = i / 2 * 4 + i % 2;
      b[2 * i] = _mm512_unpacklo_epi32(a[from], a[from + 2]);
      b[2 * i + 1] = _mm512_unpackhi_epi32(a[from], a[from + 2]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      r[2 * i] = _mm512_unpacklo_epi64(b[i], b[4 + i]);
      r[2 * i + 1] = _mm512_unpackhi_epi64(b[i], b[4 + i]);
    }
  } else {
    const __m512i a0 = _mm512_unpacklo_epi32(r[0], r[1]), a1 = _mm512_unpackhi_epi32(r[0], r[1]);
    const __m512i a2 = _mm512_unpacklo_epi32(r[2], r[3]), a3 = _mm512_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm512_unpacklo_epi64(a0, a2);
    r[1] = _mm512_unpackhi_epi64(a0, a2);
    r[2] = _mm512_unpacklo_epi64(a1, a3);
    r[3] = _mm512_unpackhi_epi64(a1, a3);
  }
}

// Transposes R x R elements in R registers, R = 32 or 16.
template <int kElement>
inline __attribute__((always_inline)) void turn(__m512i* r) {
  constexpr int K = 16 / kElement;
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) turn_lanes<kElement>(r + g * K);
    // Lane L of r[g K + k] has column L K + k of rows g K to g K + K - 1: a transposition of 4 x 4 lanes is
    // left.
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    const __m512i even01 = _mm512_shuffle_i32x4(r[k], r[K + k], 0x88);
    const __m512i odd01 = _mm512_shuffle_i32x4(r[k], r[K + k], 0xDD);
    const __m512i even23 = _mm512_shuffle_i32x4(r[2 * K + k], r[3 * K + k], 0x88);
    const __m512i odd23 = _mm512_shuffle_i32x4(r[2 * K + k], r[3 * K + k], 0xDD);
    r[k] = _mm512_shuffle_i32x4(even01, even23, 0x88);
    r[K + k] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
    r[2 * K + k] = _mm512_shuffle_i32x4(even01, even23, 0xDD);
    r[3 * K + k] = _mm512_shuffle_i32x4(odd01, odd23, 0xDD);
  }
}

__mmask64 first_bytes(std::size_t count) { return count < 64 ? (1ull << count) - 1 : ~0ull; }

template <int kElement, bool kAllRows>
void columns(const ColumnStrip& s) {
  constexpr std::size_t R = 64 / kElement;
  __m512i r[R];
  std::size_t c = 0;
  for (; c + R <= s.cols; c += R) {
#pragma GCC unroll 32
    for (std::size_t i = 0; i < R; ++i)
      r[i] = kAllRows || i < s.rows ? _mm512_loadu_si512(s.in + i * s.in_stride + c * kElement)
                                    : _mm512_setzero_si512();
    turn<kElement>(r);
#pragma GCC unroll 32
    for (std::size_t i = 0; i < R; ++i) _mm512_store_si512(s.turned + (c + i) * 64, r[i]);
  }
  if (c < s.cols) {
    const std::size_t width = s.cols - c;
    const __mmask64 there = first_bytes(width * kElement);
    for (std::size_t i = 0; i < R; ++i)
      r[i] = i < s.rows ? _mm512_maskz_loadu_epi8(there, s.in + i * s.in_stride + c * kElement)
                        : _mm512_setzero_si512();
    turn<kElement>(r);
    for (std::size_t i = 0; i < width; ++i) _mm512_store_si512(s.turned + (c + i) * 64, r[i]);
  }
  std::size_t j = 0;
  for (; j + R <= s.count; j += R) {
#pragma GCC unroll 32
    for (std::size_t i = 0; i < R; ++i) r[i] = _mm512_load_si512(s.turned + std::size_t(s.index[j + i]) * 64);
    turn<kElement>(r);
#pragma GCC unroll 32
    for (std::size_t i = 0; i < R; ++i)
      if (kAllRows || i < s.rows) _mm512_storeu_si512(s.out + i * s.out_stride + j * kElement, r[i]);
  }
  if (j < s.count) {
    const std::size_t width = s.count - j;
    const __mmask64 there = first_bytes(width * kElement);
    for (std::size_t i = 0; i < R; ++i)
      r[i] =
          i < width ? _mm512_load_si512(s.turned + std::size_t(s.index[j + i]) * 64) : _mm512_setzero_si512();
    turn<kElement>(r);
    for (std::size_t i = 0; i < s.rows; ++i)
      _mm512_mask_storeu_epi8(s.out + i * s.out_stride + j * kElement, there, r[i]);
  }
}

template <int kElement>
void strip(const ColumnStrip& s) {
  s.rows == 64 / kElement ? columns<kElement, true>(s) : columns<kElement, false>(s);
}

}  // namespace

const GatherKernels kGatherAvx512 = {64, strip<2>, strip<4>};

}  // namespace upmoe
