#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "upmoe/tensor/dtype.h"

namespace upmoe {

// Statistics of many numbers, in double precision.
struct Moments {
  std::int64_t count = 0;
  double mean = 0;
  double m2 = 0;  // sum of squared distances from the mean

  double variance() const;   // unbiased; 0 when count < 2
  double deviation() const;  // its root; exactly 0 when all numbers are equal

  bool operator==(const Moments&) const = default;
};

// Of two sets of numbers together. Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
// computing sample variances", 1979.
Moments combine(const Moments& a, const Moments& b);

// Of each row and of each column of a matrix of stored weights, rows x cols. The order of additions is
// fixed: the result has the same bits on every processor. Rows are independent of each other, and so are
// columns: threads may share them out, and each gives column_moments its columns [begin, end).
std::vector<Moments> row_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                                 std::int64_t cols);
std::vector<Moments> column_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                                    std::int64_t cols);
std::vector<Moments> column_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                                    std::int64_t cols, std::int64_t begin, std::int64_t end);

// The same for a matrix that comes by from top to bottom: the columns so far (at first all Moments()) and
// `rows` more rows. Each time but the last a multiple of kMomentRows; the bits don't depend on the cuts.
inline constexpr std::int64_t kMomentRows = 64;
void add_to_column_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                           std::span<Moments> all);

}  // namespace upmoe
