#include "upmoe/random/normal.h"

#include <array>
#include <bit>
#include <cmath>

#include "upmoe/base/isa.h"
#include "upmoe/random/blocks.h"
#include "upmoe/random/icdf_c6.h"
#include "upmoe/random/philox.h"

namespace upmoe {
namespace {

float icdf(std::uint32_t r) {
  const std::uint32_t v = r | 1;  // the probability times 2^33: neither 0 nor 1/2
  const bool centre = v >= 0x80000000u;
  const float x = float(std::int32_t(centre ? 0 - v : v));
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t column = centre ? 30 : (bits >> 23) & 31;
  const float f = centre ? x * 0x1p-31f : std::bit_cast<float>((bits & 0x7FFFFF) | 0x3F800000);
  float z = kIcdfC6[6][column];
  for (int power = 5; power >= 0; --power) z = std::fma(z, f, kIcdfC6[power][column]);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(z) ^ (r << 31));
}

void scalar(const Rng& key, const NormalBlocks& job) {
  std::array<std::uint32_t, kBlock> r;
  for (std::size_t b = 0; b < job.count; ++b) {
    words(key, (job.block + b) * kBlock, r);
    for (std::size_t i = 0; i < kBlock; ++i)
      job.out[b * kBlock + i] = std::fma(icdf(r[i]), job.sigma, job.mean);
  }
}

}  // namespace

void normals(const Rng& key, std::uint64_t first, float mean, float sigma, std::span<float> out) {
  [[maybe_unused]] const Isa isa = active_isa();
  fill(first, out, [&](std::uint64_t block, std::size_t count, float* to) {
    const NormalBlocks job = {key.seed(), key.stream(), block, count, mean, sigma, to};
#ifdef UPMOE_X86_KERNELS
    if (isa == Isa::avx512) return normal_blocks_avx512(job);
    if (isa == Isa::avx2) return normal_blocks_avx2(job);
#endif
    scalar(key, job);
  });
}

// No deviate is zero, so the fma by 1 and 0 changes nothing.
void normals(const Rng& key, std::uint64_t first, std::span<float> out) { normals(key, first, 0, 1, out); }

}  // namespace upmoe
