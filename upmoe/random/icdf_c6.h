#pragma once
// Inside of normal.cpp. The vector kernels include nothing else of ours: an inline function that
// they emit could be the copy that the linker keeps for processors without their instructions.
#include <cstddef>
#include <cstdint>

namespace upmoe {

extern const float kIcdfC6[7][32];  // [power of f][column], docs/random.md

// `count` blocks of 64 deviates from block number `block` on, as out = fma(z, sigma, mean).
struct NormalBlocks {
  std::uint64_t seed, stream, block;
  std::size_t count;
  float mean, sigma;
  float* out;
};
void normal_blocks_avx2(const NormalBlocks& job);
void normal_blocks_avx512(const NormalBlocks& job);

}  // namespace upmoe
