#include "upmoe/tensor/convert.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/isa.h"
#include "upmoe/tensor/convert_kernels.h"

namespace upmoe {
namespace {

static_assert(std::endian::native == std::endian::little);

float from_bits(std::uint32_t u) { return std::bit_cast<float>(u); }
std::uint32_t to_bits(float f) { return std::bit_cast<std::uint32_t>(f); }

float widen_bf16(std::uint16_t b) { return from_bits(std::uint32_t(b) << 16); }

std::uint16_t narrow_bf16(float f) {
  const std::uint32_t u = to_bits(f);
  const std::uint32_t rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16;
  const std::uint32_t quiet = u >> 16 | 0x40;
  return std::uint16_t((u & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
}

float widen_f16(std::uint16_t h) {
  const std::uint32_t a = h & 0x7FFF, quiet = a > 0x7C00 ? 0x400000 : 0;
  const std::uint32_t subnormal = to_bits(float(std::int32_t(a)) * 0x1p-24f);
  const std::uint32_t normal = (a << 13) + 0x38000000, special = (a << 13) | 0x7F800000 | quiet;
  const std::uint32_t magnitude = a < 0x400 ? subnormal : a < 0x7C00 ? normal : special;
  return from_bits(std::uint32_t(h & 0x8000) << 16 | magnitude);
}

std::uint16_t narrow_f16(float f) {
  const std::uint32_t u = to_bits(f), a = u & 0x7FFFFFFF;
  const std::uint32_t subnormal = to_bits(from_bits(a) + 0.5f) - 0x3F000000;  // the addition rounds to 2^-24
  const std::uint32_t normal = (a - 0x38000000 + 0xFFF + (a >> 13 & 1)) >> 13;
  const std::uint32_t quiet = 0x7E00 | (a >> 13 & 0x3FF);
  const std::uint32_t magnitude = a > 0x7F800000    ? quiet
                                  : a >= 0x477FF000 ? 0x7C00  // halfway from the largest to 2^16
                                  : a >= 0x38800000 ? normal
                                                    : subnormal;
  return std::uint16_t((u >> 16 & 0x8000) | magnitude);
}

template <float (*kWiden)(std::uint16_t)>
void widen(const void* in, float* out, std::size_t count) {
  const auto* from = static_cast<const std::byte*>(in);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t stored;
    std::memcpy(&stored, from + 2 * i, 2);
    out[i] = kWiden(stored);
  }
}

template <std::uint16_t (*kNarrow)(float)>
void narrow(const float* in, void* out, std::size_t count) {
  auto* to = static_cast<std::byte*>(out);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t stored = kNarrow(in[i]);
    std::memcpy(to + 2 * i, &stored, 2);
  }
}

constexpr ConvertKernels kScalar = {widen<widen_bf16>, widen<widen_f16>, narrow<narrow_bf16>,
                                    narrow<narrow_f16>};

const ConvertKernels& kernels() {
#ifdef UPMOE_X86_KERNELS
  if (active_isa() == Isa::avx512) return kConvertAvx512;
  if (active_isa() == Isa::avx2) return kConvertAvx2;
#endif
  return kScalar;
}

void require_fit(Dtype dtype, std::size_t bytes, std::size_t floats) {
  require(is_float_weight(dtype), "cannot compute with {}; only with F32, BF16 and F16", name(dtype));
  require(bytes == floats * bits(dtype) / 8, "{} numbers of {} take {} bytes, not {}", floats, name(dtype),
          floats * bits(dtype) / 8, bytes);
}

}  // namespace

void to_float(Dtype from, std::span<const std::byte> in, std::span<float> out) {
  require_fit(from, in.size(), out.size());
  if (from == Dtype::bf16) return kernels().widen_bf16(in.data(), out.data(), out.size());
  if (from == Dtype::f16) return kernels().widen_f16(in.data(), out.data(), out.size());
  if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
}

void from_float(std::span<const float> in, Dtype to, std::span<std::byte> out) {
  require_fit(to, out.size(), in.size());
  if (to == Dtype::bf16) return kernels().narrow_bf16(in.data(), out.data(), in.size());
  if (to == Dtype::f16) return kernels().narrow_f16(in.data(), out.data(), in.size());
  if (!in.empty()) std::memcpy(out.data(), in.data(), out.size());
}

}  // namespace upmoe
