#include <immintrin.h>

#include "upmoe/tensor/convert_kernels.h"

namespace upmoe {
namespace {

__m512 widen_bf16(__m256i stored) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(stored), 16));
}

__m512 widen_f16(__m256i stored) { return _mm512_cvtph_ps(stored); }

// Not vcvtneps2bf16, which makes subnormals zero.
__m256i narrow_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), upper = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
  const __m512i rounded = _mm512_srli_epi32(sum, 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}

__m256i narrow_f16(__m512 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

__mmask16 first_lanes(std::size_t count) { return __mmask16(count < 16 ? (1u << count) - 1 : 0xFFFF); }

template <__m512 (*kWiden)(__m256i)>
void widen(const void* in, float* out, std::size_t count) {
  const auto* from = static_cast<const unsigned char*>(in);
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    _mm512_mask_storeu_ps(out + i, lanes, kWiden(_mm256_maskz_loadu_epi16(lanes, from + 2 * i)));
  }
}

template <__m256i (*kNarrow)(__m512)>
void narrow(const float* in, void* out, std::size_t count) {
  auto* to = static_cast<unsigned char*>(out);
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    _mm256_mask_storeu_epi16(to + 2 * i, lanes, kNarrow(_mm512_maskz_loadu_ps(lanes, in + i)));
  }
}

}  // namespace

const ConvertKernels kConvertAvx512 = {widen<widen_bf16>, widen<widen_f16>, narrow<narrow_bf16>,
                                       narrow<narrow_f16>};

}  // namespace upmoe
