#include <immintrin.h>

#include "upmoe/tensor/convert_kernels.h"

namespace upmoe {
namespace {

__m256 widen_bf16(__m128i stored) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16));
}

__m256 widen_f16(__m128i stored) { return _mm256_cvtph_ps(stored); }

__m128i narrow_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x), upper = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i result = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
}

__m128i narrow_f16(__m256 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

template <__m256 (*kWiden)(__m128i)>
void widen(const void* in, float* out, std::size_t count) {
  const auto* from = static_cast<const unsigned char*>(in);
  const std::size_t whole = count / 8 * 8;
  for (std::size_t i = 0; i < whole; i += 8)
    _mm256_storeu_ps(out + i, kWiden(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i))));
  if (whole == count) return;
  __m128i stored = _mm_setzero_si128();
  __builtin_memcpy(&stored, from + 2 * whole, 2 * (count - whole));
  const __m256 last = kWiden(stored);
  __builtin_memcpy(out + whole, &last, 4 * (count - whole));
}

template <__m128i (*kNarrow)(__m256)>
void narrow(const float* in, void* out, std::size_t count) {
  auto* to = static_cast<unsigned char*>(out);
  const std::size_t whole = count / 8 * 8;
  for (std::size_t i = 0; i < whole; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i), kNarrow(_mm256_loadu_ps(in + i)));
  if (whole == count) return;
  __m256 x = _mm256_setzero_ps();
  __builtin_memcpy(&x, in + whole, 4 * (count - whole));
  const __m128i last = kNarrow(x);
  __builtin_memcpy(to + 2 * whole, &last, 2 * (count - whole));
}

}  // namespace

const ConvertKernels kConvertAvx2 = {widen<widen_bf16>, widen<widen_f16>, narrow<narrow_bf16>,
                                     narrow<narrow_f16>};

}  // namespace upmoe
