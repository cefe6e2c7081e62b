#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "upmoe/random/key.h"

namespace upmoe {

// Uniforms first, first + 1, ... of the key: multiples of 2^-24 within [0, 1).
void uniforms(const Rng& key, std::uint64_t first, std::span<float> out);

// Draw i of the key: an integer within [0, n), 0 for n = 0. Each has a probability within 2^-64 of 1/n.
std::uint64_t below(const Rng& key, std::uint64_t i, std::uint64_t n);

// The numbers 0 to n - 1, shuffled.
std::vector<std::int32_t> permutation(const Rng& key, std::int64_t n);

// Where number i goes when the numbers 0 to n - 1 are shuffled: for an n so large that nobody wants the whole
// list. i < n. Not the shuffle of permutation().
std::uint64_t permuted(const Rng& key, std::uint64_t i, std::uint64_t n);

// k of the numbers 0 to n - 1, each set of k equally likely, in ascending order.
std::vector<std::int32_t> choose(const Rng& key, std::int64_t k, std::int64_t n);

}  // namespace upmoe
