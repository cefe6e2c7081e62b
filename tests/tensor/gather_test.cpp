// The gathers against two loops that can be read off the definition, at every level of instructions.
#include "upmoe/tensor/gather.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/random/every_isa.h"
#include "upmoe/base/error.h"
#include "upmoe/random/sample.h"

namespace upmoe {
namespace {

using Bytes = std::vector<std::byte>;

struct Case {
  std::int64_t rows, cols;
  std::size_t element;
  bool columns;
  std::vector<std::int32_t> index;
  std::size_t offset;  // of the matrices' first bytes from an aligned address
  Bytes memory;

  Case(std::int64_t rows_, std::int64_t cols_, std::size_t element_, bool columns_, std::size_t count,
       std::uint64_t seed)
      : rows(rows_), cols(cols_), element(element_), columns(columns_), index(count), offset(seed % 5) {
    const Rng key(seed);
    for (std::size_t i = 0; i < count; ++i)
      index[i] = static_cast<std::int32_t>(
          below(key.at("index"), i, static_cast<std::uint64_t>(columns ? cols : rows)));
    memory.resize(offset + static_cast<std::size_t>(rows * cols) * element);
    for (std::size_t i = 0; i < memory.size(); ++i)
      memory[i] = static_cast<std::byte>((i * 2654435761u + seed) >> 16);
  }

  StoredMatrix in() const { return {std::span(memory).subspan(offset), rows, cols, element}; }
  std::size_t out_rows() const { return columns ? static_cast<std::size_t>(rows) : index.size(); }
  std::size_t out_cols() const { return columns ? index.size() : static_cast<std::size_t>(cols); }

  Bytes gathered() const {
    Bytes out(out_rows() * out_cols() * element);
    for (std::size_t r = 0; r < out_rows(); ++r)
      for (std::size_t c = 0; c < out_cols(); ++c) {
        const auto from_row = columns ? r : static_cast<std::size_t>(index[r]);
        const auto from_column = columns ? static_cast<std::size_t>(index[c]) : c;
        std::memcpy(out.data() + (r * out_cols() + c) * element,
                    in().bytes.data() + (from_row * static_cast<std::size_t>(cols) + from_column) * element,
                    element);
      }
    return out;
  }

  // The range of the result, and whether nothing beside it was written; at an odd address.
  Bytes range(std::size_t begin, std::size_t size) const {
    Bytes out(size + 2 * offset + 2, std::byte{0xA5});
    const auto inner = std::span(out).subspan(offset + 1, size);
    (columns ? gather_columns : gather_rows)(in(), index, begin, inner);
    const Bytes found(inner.begin(), inner.end());
    std::ranges::fill(inner, std::byte{0xA5});
    EXPECT_EQ(out, Bytes(out.size(), std::byte{0xA5}));
    return found;
  }
};

TEST(Gather, TakesRowsAndColumnsOfAnyNumberAtEveryLevelOfInstructions) {
  for (const std::size_t element : {2u, 4u})
    for (const bool columns : {false, true})
      for (const std::int64_t rows : {1, 3, 8, 15, 16, 17, 32, 33, 70})
        for (const std::int64_t cols : {1, 2, 7, 15, 16, 31, 32, 33, 63, 200})
          for (const std::size_t count : {0u, 1u, 9u, 16u, 31u, 32u, 33u, 100u}) {
            const Case c(rows, cols, element, columns, count,
                         static_cast<std::uint64_t>(rows * 7 + cols) + count);
            const Bytes expected = c.gathered();
            at_every_isa([&] {
              ASSERT_EQ(c.range(0, expected.size()), expected)
                  << element << " " << columns << " " << rows << " " << cols << " " << count;
            });
          }
}

RC_GTEST_PROP(Gather, GivesTheSameBytesForAnyCutIntoRanges, ()) {
  using rc::gen::inRange;
  const Case c(*inRange<std::int64_t>(1, 120), *inRange<std::int64_t>(1, 150),
               *rc::gen::element<std::size_t>(2, 4), *rc::gen::arbitrary<bool>(),
               *inRange<std::size_t>(0, 150), *rc::gen::arbitrary<std::uint64_t>());
  const Bytes expected = c.gathered();
  const auto elements = *inRange<std::size_t>(1, 6000);
  at_every_isa([&] {
    Bytes cut;
    for (std::size_t at = 0; at < expected.size();) {
      const std::size_t size = std::min(elements * c.element, expected.size() - at);
      const Bytes some = c.range(at, size);
      cut.insert(cut.end(), some.begin(), some.end());
      at += size;
    }
    RC_ASSERT(cut == expected);
  });
}

TEST(Gather, TakesARunOfColumnsAndAllOfThemBackwards) {
  for (const std::size_t element : {2u, 4u}) {
    Case c(40, 77, element, /*columns=*/true, 50, 1);
    std::iota(c.index.begin(), c.index.end(), 20);
    at_every_isa([&] { EXPECT_EQ(c.range(0, c.gathered().size()), c.gathered()); });
    c.index.resize(77);
    std::iota(c.index.rbegin(), c.index.rend(), 0);
    at_every_isa([&] { EXPECT_EQ(c.range(0, c.gathered().size()), c.gathered()); });
  }
}

TEST(Gather, RefusesWhatIsNotThereAndSizesThatDoNotMatch) {
  const Bytes bytes(24);
  Bytes out(8);
  const StoredMatrix in{bytes, 3, 4, 2};
  const auto refuses = [&](const StoredMatrix& matrix, std::vector<std::int32_t> index, std::uint64_t begin) {
    EXPECT_THROW(gather_rows(matrix, index, begin, out), Error);
    EXPECT_THROW(gather_columns(matrix, index, begin, out), Error);
  };
  EXPECT_NO_THROW(gather_rows(in, std::vector<std::int32_t>{2, 2}, 8, out));
  refuses(in, {0, 4, 0, 0}, 0);
  refuses(in, {0, -1, 0, 0}, 0);
  refuses(in, {0, 1, 0}, 1);
  refuses(in, {0}, 2);
  refuses({bytes, 3, 4, 1}, {0, 1, 0}, 0);
  refuses({bytes, 3, 5, 2}, {0, 1, 0}, 0);
  refuses({bytes, -3, -4, 2}, {0, 1, 0}, 0);
}

}  // namespace
}  // namespace upmoe
