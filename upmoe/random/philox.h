#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "upmoe/random/key.h"

namespace upmoe {

// Philox4x32-10: a counter and a key to four words.
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key);

// Words first, first + 1, ... of the key. Any range: word i is the same in each. Numbering: docs/random.md.
void words(const Rng& key, std::uint64_t first, std::span<std::uint32_t> out);

}  // namespace upmoe
