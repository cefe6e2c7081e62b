#include "upmoe/random/sample.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <numeric>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/random/blocks.h"
#include "upmoe/random/philox.h"

namespace upmoe {
namespace {

constexpr std::uint32_t kFeistelRounds = 8;

std::uint64_t high_product(std::uint32_t low, std::uint32_t high, std::uint64_t n) {
  __extension__ using Wide = unsigned __int128;
  return std::uint64_t((Wide(std::uint64_t(high) << 32 | low) * n) >> 64);
}

// The first k steps of a Fisher-Yates shuffle of 0 to n - 1.
std::vector<std::int32_t> shuffle(const Rng& key, std::int64_t k, std::int64_t n) {
  std::vector<std::int32_t> deck(n);
  std::iota(deck.begin(), deck.end(), 0);
  std::vector<std::uint32_t> word(2 * k);
  words(key, 0, word);
  for (std::int64_t i = 0; i < k; ++i)
    std::swap(deck[i], deck[i + high_product(word[2 * i], word[2 * i + 1], n - i)]);
  return deck;
}

void require_count(std::int64_t k, std::int64_t n) {
  require(n <= std::numeric_limits<std::int32_t>::max(), "cannot draw from {} numbers; the most is 2^31 - 1",
          n);
  require(0 <= k && k <= n, "cannot choose {} of {} numbers", k, n);
}

}  // namespace

void uniforms(const Rng& key, std::uint64_t first, std::span<float> out) {
  fill(first, out, [&](std::uint64_t block, std::size_t count, float* to) {
    std::array<std::uint32_t, kBlock> r;
    for (std::size_t b = 0; b < count; ++b) {
      words(key, (block + b) * kBlock, r);
      for (std::size_t i = 0; i < kBlock; ++i) to[b * kBlock + i] = float(r[i] >> 8) * 0x1p-24f;
    }
  });
}

std::uint64_t below(const Rng& key, std::uint64_t i, std::uint64_t n) {
  std::array<std::uint32_t, 2> word;
  words(key, 2 * i, word);
  return high_product(word[0], word[1], n);
}

std::vector<std::int32_t> permutation(const Rng& key, std::int64_t n) {
  require_count(n, n);
  return shuffle(key, n, n);
}

std::uint64_t permuted(const Rng& key, std::uint64_t i, std::uint64_t n) {
  const int half = std::max(1, (int(std::bit_width(n - 1)) + 1) / 2);  // bits
  const std::uint64_t mask = (std::uint64_t(1) << half) - 1;
  const std::uint32_t c2 = std::uint32_t(key.stream()), c3 = std::uint32_t(key.stream() >> 32);
  do {  // a Feistel network permutes 0 to 4^half - 1; what it takes out of 0 to n - 1, it takes back in
    std::uint64_t left = i >> half, right = i & mask;
    for (std::uint32_t round = 0; round < kFeistelRounds; ++round) {
      const std::uint32_t word = philox({std::uint32_t(right), round, c2, c3}, key.seed())[0];
      left = std::exchange(right, left ^ (word & mask));
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

std::vector<std::int32_t> choose(const Rng& key, std::int64_t k, std::int64_t n) {
  require_count(k, n);
  const std::vector<std::int32_t> deck = shuffle(key, k, n);
  std::vector<char> taken(n, 0);
  for (std::int64_t i = 0; i < k; ++i) taken[deck[i]] = 1;
  std::vector<std::int32_t> chosen;
  chosen.reserve(k);
  for (std::int64_t i = 0; i < n; ++i)
    if (taken[i]) chosen.push_back(std::int32_t(i));
  return chosen;
}

}  // namespace upmoe
