#include "upmoe/random/key.h"

#include <gtest/gtest.h>

#include <set>

namespace upmoe {
namespace {

// The numbers come from tests/random/known_answers.py. They never change: files depend on them.
TEST(Rng, GivesTheKnownStreams) {
  const Rng root(42);
  EXPECT_EQ(root.stream(), 0u);
  EXPECT_EQ(root.at("layer").stream(), 0xac9da67d3154754bu);
  EXPECT_EQ(root.at("layer").at(7).stream(), 0x2897d56e2dc7403du);
  EXPECT_EQ(root.at("layer").at(7).at("value").stream(), 0x803faea5e7891878u);
  EXPECT_EQ(root.at("").stream(), 0x2d06800538d394c2u);
  EXPECT_EQ(root.at((1ull << 63) + 1).stream(), 0xb8ad7ac4cab25ac8u);
}

TEST(Rng, KeepsTheSeedInAllChildren) {
  EXPECT_EQ(Rng(42).at("layer").at(3).seed(), 42u);
  EXPECT_NE(Rng(42).at("layer"), Rng(43).at("layer"));
  EXPECT_EQ(Rng(42).at("layer").stream(), Rng(43).at("layer").stream());
}

TEST(Rng, DependsOnThePathAndItsOrder) {
  const Rng root(1);
  EXPECT_EQ(root.at("a").at("b"), root.at("a").at("b"));
  EXPECT_NE(root.at("a").at("b"), root.at("b").at("a"));
  EXPECT_NE(root.at("a").at("b"), root.at("ab"));
  EXPECT_NE(root.at("7"), root.at(7));
}

TEST(Rng, GivesSiblingsDifferentStreams) {
  std::set<std::uint64_t> streams;
  for (std::uint64_t layer = 0; layer < 100; ++layer)
    for (std::uint64_t expert = 0; expert < 100; ++expert)
      streams.insert(Rng(0).at("layer").at(layer).at("expert").at(expert).stream());
  EXPECT_EQ(streams.size(), 10000u);
}

}  // namespace
}  // namespace upmoe
