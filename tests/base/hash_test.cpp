#include "upmoe/base/hash.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

namespace upmoe {
namespace {

std::vector<std::byte> counting(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 131 + (i >> 8));
  return bytes;
}

TEST(Xxh3, GivesTheKnownHashes) {
  // The first from the reference's own self-test (xxHash, tests/sanity_test_vectors.h); the others by the
  // Python package xxhash 4.1.0: xxhash.xxh3_64_intdigest(b"layer"), (b"layer", seed=7), (bytes(range(256)) *
  // 4).
  EXPECT_EQ(xxh3(""), 0x2d06800538d394c2u);
  EXPECT_EQ(xxh3("layer"), 0xac9da67d3154754bu);
  EXPECT_EQ(xxh3("layer", 7), 0xc33109b9515eef54u);
  std::vector<std::byte> bytes(1024);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 256);
  EXPECT_EQ(xxh3(bytes), 0xa870f92984398d22u);
}

TEST(Xxh3, OfTextIsThatOfItsBytes) {
  EXPECT_EQ(xxh3("abc", 3), xxh3(std::as_bytes(std::span(std::string_view("abc"))), 3));
}

RC_GTEST_PROP(Xxh3, InPiecesIsTheSame, ()) {
  const std::vector<std::byte> bytes = counting(*rc::gen::inRange<std::size_t>(0, 5000));
  Xxh3 pieces;
  for (std::span<const std::byte> left = bytes; !left.empty();) {
    const std::size_t take = *rc::gen::inRange<std::size_t>(1, left.size() + 1);
    pieces.update(left.first(take));
    left = left.subspan(take);
  }
  RC_ASSERT(pieces.digest() == xxh3(bytes));
}

TEST(Hex, HasSixteenDigits) {
  EXPECT_EQ(hex(0), "0000000000000000");
  EXPECT_EQ(hex(0xfedcba9876543210u), "fedcba9876543210");
}

}  // namespace
}  // namespace upmoe
