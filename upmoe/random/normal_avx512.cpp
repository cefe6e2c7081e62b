#include <immintrin.h>

#include "upmoe/random/icdf_c6.h"

namespace upmoe {
namespace {

struct Deviates {
  __m512 low[7], high[7];  // columns 0 to 15 and 16 to 31 of the table, in registers
  __m512 sigma, mean;
};

inline __attribute__((always_inline)) __m512i high_half(__m512i product) {
  return _mm512_srli_epi64(product, 32);
}

inline __attribute__((always_inline)) __m512i xor3(__m512i a, __m512i b, __m512i c) {
  return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

// One round of Philox on every other lane.
inline __attribute__((always_inline)) void philox_round(__m512i c[4], __m512i k0, __m512i k1) {
  const __m512i p0 = _mm512_mul_epu32(c[0], _mm512_set1_epi64(0xD2511F53));
  const __m512i p1 = _mm512_mul_epu32(c[2], _mm512_set1_epi64(0xCD9E8D57));
  c[0] = xor3(high_half(p1), c[1], k0);
  c[1] = p1;
  c[2] = xor3(high_half(p0), c[3], k1);
  c[3] = p0;
}

// Words 16 w to 16 w + 15 of the block go to r[w]. The products take 64 bits, so even and odd lanes go apart.
inline __attribute__((always_inline)) void block_words(const NormalBlocks& job, std::uint64_t block,
                                                       __m512i r[4]) {
  const std::uint64_t counter = 16 * block;
  const __m512i first = _mm512_set1_epi64((long long)counter);
  const __m512i c2 = _mm512_set1_epi64((long long)job.stream), c3 = high_half(c2);
  __m512i even[4] = {_mm512_add_epi64(first, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0)), {}, c2, c3};
  __m512i odd[4] = {_mm512_add_epi64(first, _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1)), {}, c2, c3};
  even[1] = high_half(even[0]);
  odd[1] = high_half(odd[0]);
  std::uint32_t k0 = std::uint32_t(job.seed), k1 = std::uint32_t(job.seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
    philox_round(even, key0, key1);
    philox_round(odd, key0, key1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 4
  for (int w = 0; w < 4; ++w) r[w] = _mm512_mask_blend_epi32(0xAAAA, even[w], _mm512_slli_epi64(odd[w], 32));
}

inline __attribute__((always_inline)) __m512 icdf(const Deviates& d, __m512i r) {
  const __m512i v = _mm512_or_si512(r, _mm512_set1_epi32(1));
  const __mmask16 centre = _mm512_movepi32_mask(v);
  const __m512 x = _mm512_cvtepi32_ps(_mm512_abs_epi32(v));
  const __m512i bits = _mm512_castps_si512(x);
  // The permutation looks at the low five bits of the exponent only.
  const __m512i column = _mm512_mask_mov_epi32(_mm512_srli_epi32(bits, 23), centre, _mm512_set1_epi32(30));
  const __m512i mantissa =
      _mm512_ternarylogic_epi32(bits, _mm512_set1_epi32(0x7FFFFF), _mm512_set1_epi32(0x3F800000), 0xEA);
  const __m512 f = _mm512_mask_mul_ps(_mm512_castsi512_ps(mantissa), centre, x, _mm512_set1_ps(0x1p-31f));
  __m512 z = _mm512_permutex2var_ps(d.low[6], column, d.high[6]);
#pragma GCC unroll 6
  for (int power = 5; power >= 0; --power)
    z = _mm512_fmadd_ps(z, f, _mm512_permutex2var_ps(d.low[power], column, d.high[power]));
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(z), _mm512_slli_epi32(r, 31)));
}

}  // namespace

void normal_blocks_avx512(const NormalBlocks& job) {
  Deviates d;
  for (int power = 0; power < 7; ++power) {
    d.low[power] = _mm512_loadu_ps(kIcdfC6[power]);
    d.high[power] = _mm512_loadu_ps(kIcdfC6[power] + 16);
  }
  d.sigma = _mm512_set1_ps(job.sigma);
  d.mean = _mm512_set1_ps(job.mean);
  for (std::size_t b = 0; b < job.count; ++b) {
    __m512i r[4];
    block_words(job, job.block + b, r);
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w)
      _mm512_storeu_ps(job.out + 64 * b + 16 * w, _mm512_fmadd_ps(icdf(d, r[w]), d.sigma, d.mean));
  }
}

}  // namespace upmoe
