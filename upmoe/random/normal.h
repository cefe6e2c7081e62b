#pragma once
#include <cstdint>
#include <span>

#include "upmoe/random/key.h"

namespace upmoe {

// Standard normal deviates first, first + 1, ... of the key, within +-6.34. Any range, from any thread:
// deviate i is the same in each, to the last bit, on every processor. Definition ("icdfC6"): docs/random.md.
void normals(const Rng& key, std::uint64_t first, std::span<float> out);

// mean + sigma * deviate, rounded once.
void normals(const Rng& key, std::uint64_t first, float mean, float sigma, std::span<float> out);

}  // namespace upmoe
