#include "upmoe/random/philox.h"

#include "upmoe/random/blocks.h"

namespace upmoe {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::uint64_t key) {
  std::uint32_t k0 = std::uint32_t(key), k1 = std::uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    c = {std::uint32_t(p1 >> 32) ^ c[1] ^ k0, std::uint32_t(p1),  //
         std::uint32_t(p0 >> 32) ^ c[3] ^ k1, std::uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

void words(const Rng& key, std::uint64_t first, std::span<std::uint32_t> out) {
  const std::uint32_t c2 = std::uint32_t(key.stream()), c3 = std::uint32_t(key.stream() >> 32);
  fill(first, out, [&](std::uint64_t block, std::size_t count, std::uint32_t* to) {
    for (; count > 0; --count, ++block, to += kBlock) {
      for (std::uint64_t lane = 0; lane < 16; ++lane) {
        const std::uint64_t n = 16 * block + lane;
        const auto four = philox({std::uint32_t(n), std::uint32_t(n >> 32), c2, c3}, key.seed());
        for (int w = 0; w < 4; ++w) to[16 * w + lane] = four[w];
      }
    }
  });
}

}  // namespace upmoe
