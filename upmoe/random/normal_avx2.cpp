#include <immintrin.h>

#include "upmoe/random/icdf_c6.h"

namespace upmoe {
namespace {

inline __attribute__((always_inline)) __m256i high_half(__m256i product) {
  return _mm256_srli_epi64(product, 32);
}

// One round of Philox on every other lane.
inline __attribute__((always_inline)) void philox_round(__m256i c[4], __m256i k0, __m256i k1) {
  const __m256i p0 = _mm256_mul_epu32(c[0], _mm256_set1_epi64x(0xD2511F53));
  const __m256i p1 = _mm256_mul_epu32(c[2], _mm256_set1_epi64x(0xCD9E8D57));
  c[0] = _mm256_xor_si256(_mm256_xor_si256(high_half(p1), c[1]), k0);
  c[1] = p1;
  c[2] = _mm256_xor_si256(_mm256_xor_si256(high_half(p0), c[3]), k1);
  c[3] = p0;
}

// Words 16 w + i of counters n to n + 7, i = 0 to 7, go to r[w].
inline __attribute__((always_inline)) void half_words(const NormalBlocks& job, std::uint64_t n,
                                                      __m256i r[4]) {
  const __m256i first = _mm256_set1_epi64x((long long)n);
  const __m256i c2 = _mm256_set1_epi64x((long long)job.stream), c3 = high_half(c2);
  __m256i even[4] = {_mm256_add_epi64(first, _mm256_set_epi64x(6, 4, 2, 0)), {}, c2, c3};
  __m256i odd[4] = {_mm256_add_epi64(first, _mm256_set_epi64x(7, 5, 3, 1)), {}, c2, c3};
  even[1] = high_half(even[0]);
  odd[1] = high_half(odd[0]);
  std::uint32_t k0 = std::uint32_t(job.seed), k1 = std::uint32_t(job.seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
    philox_round(even, key0, key1);
    philox_round(odd, key0, key1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) r[w] = _mm256_blend_epi32(even[w], _mm256_slli_epi64(odd[w], 32), 0xAA);
}

// Columns 16 to 31 of a row of the table: all words but one in 2^14 are there.
inline __attribute__((always_inline)) __m256 upper_columns(const float row[32], __m256i column,
                                                           __m256 is_high) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + 16), column);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + 24), column);
  return _mm256_blendv_ps(low, high, is_high);
}

inline __attribute__((always_inline)) __m256 icdf(__m256i r) {
  const __m256i v = _mm256_or_si256(r, _mm256_set1_epi32(1));
  const __m256 centre = _mm256_castsi256_ps(v);  // blendv looks at the sign alone
  const __m256 x = _mm256_cvtepi32_ps(_mm256_abs_epi32(v));
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i column = _mm256_castps_si256(_mm256_blendv_ps(
      _mm256_castsi256_ps(_mm256_srli_epi32(bits, 23)), _mm256_castsi256_ps(_mm256_set1_epi32(30)), centre));
  const __m256i mantissa =
      _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFF)), _mm256_set1_epi32(0x3F800000));
  const __m256 f =
      _mm256_blendv_ps(_mm256_castsi256_ps(mantissa), _mm256_mul_ps(x, _mm256_set1_ps(0x1p-31f)), centre);
  __m256 z;
  if (_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(column, 27))) == 0xFF) {
    const __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(column, 28));
    z = upper_columns(kIcdfC6[6], column, is_high);
#pragma GCC unroll 6
    for (int power = 5; power >= 0; --power)
      z = _mm256_fmadd_ps(z, f, upper_columns(kIcdfC6[power], column, is_high));
  } else {
    const __m256i any = _mm256_and_si256(column, _mm256_set1_epi32(31));
    z = _mm256_i32gather_ps(kIcdfC6[6], any, 4);
    for (int power = 5; power >= 0; --power)
      z = _mm256_fmadd_ps(z, f, _mm256_i32gather_ps(kIcdfC6[power], any, 4));
  }
  return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(z), _mm256_slli_epi32(r, 31)));
}

}  // namespace

void normal_blocks_avx2(const NormalBlocks& job) {
  const __m256 sigma = _mm256_set1_ps(job.sigma), mean = _mm256_set1_ps(job.mean);
  for (std::size_t half = 0; half < 2 * job.count; ++half) {
    __m256i r[4];
    half_words(job, 16 * job.block + 8 * half, r);
    float* to = job.out + 64 * (half / 2) + 8 * (half % 2);
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) _mm256_storeu_ps(to + 16 * w, _mm256_fmadd_ps(icdf(r[w]), sigma, mean));
  }
}

}  // namespace upmoe
