#include "upmoe/random/philox.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

#include "upmoe/base/hash.h"

namespace upmoe {
namespace {

using Four = std::array<std::uint32_t, 4>;

std::vector<std::uint32_t> make_words(const Rng& key, std::uint64_t first, std::size_t count) {
  std::vector<std::uint32_t> out(count);
  words(key, first, out);
  return out;
}

// kat_vectors of Random123.
TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  const std::uint32_t all = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, 0), (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({all, all, all, all}, ~0ull), (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// From tests/random/known_answers.py.
TEST(Words, AreTheKnownOnes) {
  const Rng key = Rng(42).at("layer").at(7).at("value");
  EXPECT_EQ(make_words(key, 0, 4),
            (std::vector<std::uint32_t>{0x4493cc3a, 0xcde65638, 0x583e4dcf, 0xd257faa7}));
  EXPECT_EQ(make_words(key, (1ull << 38) - 2, 4),
            (std::vector<std::uint32_t>{0xddd4df9a, 0x258dd806, 0x05f55051, 0xaae01a21}));
  const auto many = make_words(key, 0, 1 << 20);
  EXPECT_EQ(hex(xxh3(std::as_bytes(std::span(many)))), "f322d7c081e61536");
}

TEST(Words, AreNumberedInBlocksOfSixteenCounters) {
  const Rng key = Rng(5).at("numbering");
  const std::uint64_t block = (1ull << 30) + 3;  // the counter needs more than 32 bits
  const auto r = make_words(key, 64 * block, 64);
  for (std::uint32_t lane = 0; lane < 16; ++lane) {
    const std::uint64_t n = 16 * block + lane;
    const Four four = philox({std::uint32_t(n), std::uint32_t(n >> 32), std::uint32_t(key.stream()),
                              std::uint32_t(key.stream() >> 32)},
                             key.seed());
    for (std::uint32_t w = 0; w < 4; ++w) EXPECT_EQ(r[16 * w + lane], four[w]);
  }
}

RC_GTEST_PROP(Words, AreTheSameInAnyRange, (std::uint16_t from, std::uint16_t near)) {
  static const auto whole = make_words(Rng(6).at("range"), 1000, 70000);
  const std::size_t begin = from, count = near % 400;
  const auto part = make_words(Rng(6).at("range"), 1000 + begin, count);
  RC_ASSERT(std::ranges::equal(part, std::span(whole).subspan(begin, count)));
}

}  // namespace
}  // namespace upmoe
