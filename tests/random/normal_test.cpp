#include "upmoe/random/normal.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <thread>
#include <vector>

#include "tests/random/every_isa.h"
#include "upmoe/base/hash.h"
#include "upmoe/random/philox.h"

namespace upmoe {
namespace {

std::vector<float> make_normals(const Rng& key, std::uint64_t first, std::size_t count) {
  std::vector<float> out(count);
  normals(key, first, out);
  return out;
}

std::string digest(const std::vector<float>& x) { return hex(xxh3(std::as_bytes(std::span(x)))); }

// From tests/random/known_answers.py.
TEST(Normals, AreTheKnownOnes) {
  const Rng key = Rng(42).at("layer").at(7).at("value");
  at_every_isa([&] {
    const auto z = make_normals(key, 0, 1 << 20);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(z[0]), 0x3f8dd18f);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(z[1]), 0x3e7dbd00);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(z[2]), 0xbf71e62f);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(z[3]), 0xbe66d3a1);
    EXPECT_EQ(digest(z), "11c524503c167d58");
    std::vector<float> scaled(1 << 20);
    normals(key, (1ull << 40) + 7, -1.3e-4f, 0.0217f, scaled);
    EXPECT_EQ(digest(scaled), "db4fc24fb1d8559b");
  });
}

TEST(Normals, AreMeanPlusSigmaTimesDeviateRoundedOnce) {
  const Rng key = Rng(1).at("scaled");
  at_every_isa([&] {
    const auto z = make_normals(key, 3, 5000);
    std::vector<float> scaled(z.size());
    normals(key, 3, 1.5f, 0.3f, scaled);
    for (std::size_t i = 0; i < z.size(); ++i) ASSERT_EQ(scaled[i], std::fma(z[i], 0.3f, 1.5f));
  });
}

TEST(Normals, AreTheMeanWhereSigmaIsZero) {
  std::vector<float> x(200);
  normals(Rng(1), 0, 0.75f, 0, x);
  EXPECT_EQ(x, std::vector<float>(200, 0.75f));
}

// Words at the ends of the pieces, found by a search through this key.
TEST(Normals, HoldAtTheEdgesOfTheTable) {
  const Rng key = Rng(42).at("edge");
  const struct {
    std::uint64_t index;
    std::uint32_t word, normal;
  } edges[] = {
      {62912539, 0x7fffffdf, 0xbf2cab3f},  // the tail's end, rounded up to the centre's column
      {84171874, 0x7fffffc0, 0x3f2cab3f},   {836095881, 0x80000000, 0x3f2cab3f},   // the centre's begin
      {4343840864, 0xfffffffe, 0x2fa06c7e},                                        // the smallest deviates
      {5665967873, 0xffffffff, 0xafa06c7e}, {9226245469, 0x00000001, 0xc0cad08c},  // the largest deviate
  };
  for (const auto& edge : edges) {
    std::uint32_t word = 0;
    words(key, edge.index, std::span(&word, 1));
    ASSERT_EQ(word, edge.word);
    at_every_isa(
        [&] { EXPECT_EQ(std::bit_cast<std::uint32_t>(make_normals(key, edge.index, 1)[0]), edge.normal); });
  }
}

// At every level of instructions, through heads and tails of blocks.
RC_GTEST_PROP(Normals, AreTheSameInAnyRange, (std::uint16_t from, std::uint16_t near)) {
  static const auto whole = make_normals(Rng(6).at("range"), 1ull << 33, 70000);
  const std::size_t begin = from, count = near % 400;
  at_every_isa([&] {
    const auto part = make_normals(Rng(6).at("range"), (1ull << 33) + begin, count);
    RC_ASSERT(std::ranges::equal(part, std::span(whole).subspan(begin, count)));
  });
}

TEST(Normals, WriteNothingOutsideTheirRange) {
  at_every_isa([] {
    std::vector<float> x(300, 9);
    normals(Rng(2), 61, std::span(x).subspan(100, 71));
    EXPECT_TRUE(std::ranges::all_of(std::span(x).first(100), [](float v) { return v == 9; }));
    EXPECT_TRUE(std::ranges::none_of(std::span(x).subspan(100, 71), [](float v) { return v == 9; }));
    EXPECT_TRUE(std::ranges::all_of(std::span(x).subspan(171), [](float v) { return v == 9; }));
  });
}

TEST(Normals, AreTheSameFromManyThreads) {
  const Rng key = Rng(3).at("threads");
  const auto alone = make_normals(key, 17, 100000);
  std::vector<float> shared(alone.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 7; ++t) {
    const std::size_t begin = t * shared.size() / 7, end = (t + 1) * shared.size() / 7;
    threads.emplace_back(
        [&, begin, end] { normals(key, 17 + begin, std::span(shared).subspan(begin, end - begin)); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(alone, shared);
}

}  // namespace
}  // namespace upmoe
