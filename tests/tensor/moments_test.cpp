#include "upmoe/tensor/moments.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "tests/random/every_isa.h"
#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/random/normal.h"
#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

struct Matrix {
  Dtype dtype;
  std::int64_t rows, cols;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // what is stored, as float

  Matrix(Dtype dtype_, std::int64_t rows_, std::int64_t cols_, std::vector<float> x)
      : dtype(dtype_), rows(rows_), cols(cols_), bytes(x.size() * bits(dtype_) / 8), values(x) {
    from_float(x, dtype, bytes);
    to_float(dtype, bytes, values);
  }
};

Matrix normal_matrix(Dtype dtype, std::int64_t rows, std::int64_t cols, float mean, float sigma) {
  std::vector<float> x(rows * cols);
  normals(Rng(11).at("matrix"), 0, mean, sigma, x);
  return {dtype, rows, cols, x};
}

struct Naive {
  long double mean = 0, deviation = 0;
};

// Of `count` numbers, `stride` apart.
Naive naive(const float* x, std::int64_t count, std::int64_t stride) {
  Naive result;
  for (std::int64_t i = 0; i < count; ++i) result.mean += x[i * stride];
  result.mean /= count;
  for (std::int64_t i = 0; i < count; ++i)
    result.deviation += (x[i * stride] - result.mean) * (x[i * stride] - result.mean);
  result.deviation = count < 2 ? 0 : std::sqrt(result.deviation / (count - 1));
  return result;
}

// The bound: some roundings in double precision of sums of numbers as large as the mean.
void expect_near(const Moments& got, const Naive& want, std::int64_t count) {
  EXPECT_EQ(got.count, count);
  const double scale = std::abs(double(want.mean)) + double(want.deviation);
  EXPECT_NEAR(got.mean, double(want.mean), 1e-13 * scale);
  EXPECT_NEAR(got.deviation(), double(want.deviation), 1e-12 * double(want.deviation) + 1e-15 * scale);
}

void expect_naive(const Matrix& m) {
  const auto by_row = row_moments(m.dtype, m.bytes, m.rows, m.cols);
  const auto by_column = column_moments(m.dtype, m.bytes, m.rows, m.cols);
  ASSERT_EQ(std::int64_t(by_row.size()), m.rows);
  ASSERT_EQ(std::int64_t(by_column.size()), m.cols);
  for (std::int64_t r = 0; r < m.rows; ++r)
    expect_near(by_row[r], naive(&m.values[r * m.cols], m.cols, 1), m.cols);
  for (std::int64_t c = 0; c < m.cols; ++c)
    expect_near(by_column[c], naive(&m.values[c], m.rows, m.cols), m.rows);
}

TEST(Moments, AreThoseOfTheTextbook) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    expect_naive(normal_matrix(dtype, 150, 300, 0, 0.02f));
    expect_naive(normal_matrix(dtype, 3, 10001, 0.1f, 0.02f));
    expect_naive(normal_matrix(dtype, 1000, 5, -0.1f, 0.02f));
  }
}

TEST(Moments, DoNotCancelWhereTheMeanIsBig) {
  expect_naive(normal_matrix(Dtype::f32, 200, 5000, 1000, 0.01f));
}

TEST(Moments, HaveNoDeviationWhereAllIsEqual) {
  for (const float value : {0.0f, 0.1f, -123.456f, 1e30f, 1e-40f}) {
    const Matrix m(Dtype::f32, 131, 4101, std::vector<float>(131 * 4101, value));
    for (const auto& all :
         {row_moments(m.dtype, m.bytes, m.rows, m.cols), column_moments(m.dtype, m.bytes, m.rows, m.cols)}) {
      for (const Moments& moments : all) {
        ASSERT_EQ(moments.mean, double(value));
        ASSERT_EQ(moments.deviation(), 0);
      }
    }
  }
}

TEST(Moments, HaveNoDeviationOfOneNumber) {
  const Matrix m(Dtype::bf16, 1, 3, {1, 2, 3});
  for (const Moments& moments : column_moments(m.dtype, m.bytes, 1, 3)) EXPECT_EQ(moments.deviation(), 0);
  EXPECT_EQ(row_moments(m.dtype, m.bytes, 1, 3)[0], (Moments{3, 2, 2}));
  EXPECT_EQ(row_moments(m.dtype, m.bytes, 1, 3)[0].deviation(), 1);
}

TEST(Moments, AreEmptyOfNothing) {
  EXPECT_TRUE(row_moments(Dtype::bf16, {}, 0, 5).empty());
  EXPECT_EQ(row_moments(Dtype::bf16, {}, 2, 0), std::vector<Moments>(2));
  EXPECT_EQ(column_moments(Dtype::bf16, {}, 0, 2), std::vector<Moments>(2));
  EXPECT_EQ(Moments().deviation(), 0);
}

// From tests/random/known_answers.py: weights that are re-drawn depend on these bits.
TEST(Moments, HaveTheSameBitsEverywhere) {
  const Matrix m = normal_matrix(Dtype::bf16, 257, 4444, 0.01f, 0.02f);
  at_every_isa([&] {
    const auto by_row = row_moments(m.dtype, m.bytes, m.rows, m.cols);
    const auto by_column = column_moments(m.dtype, m.bytes, m.rows, m.cols);
    EXPECT_EQ(hex(xxh3(std::as_bytes(std::span(by_row)))), "e97d9041f3edbf18");
    EXPECT_EQ(hex(xxh3(std::as_bytes(std::span(by_column)))), "630df80d2eec639f");
  });
}

TEST(Moments, OfSomeColumnsAreAPartOfThoseOfAll) {
  const Matrix m = normal_matrix(Dtype::bf16, 100, 777, 0, 1);
  const auto all = column_moments(m.dtype, m.bytes, m.rows, m.cols);
  for (const auto& [begin, end] : {std::pair(0, 777), {0, 1}, {5, 300}, {256, 512}, {776, 777}, {9, 9}})
    EXPECT_EQ(column_moments(m.dtype, m.bytes, m.rows, m.cols, begin, end),
              std::vector<Moments>(all.begin() + begin, all.begin() + end));
}

// The scalar code is the reference: every number of rows and columns beside the widths of the kernels.
TEST(Moments, HaveTheBitsOfTheScalarCodeForAnyShape) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const std::int64_t rows : {1, 2, 3, 63, 64, 65, 130})
      for (const std::int64_t cols : {1, 2, 7, 8, 9, 15, 31, 32, 33, 255, 256, 257, 4095, 4096, 4097, 8200}) {
        if (rows > 3 && cols > 257) continue;
        const Matrix m = normal_matrix(dtype, rows, cols, 0.3f, 1.0f);
        std::vector<Moments> by_row, by_column;
        at_every_isa([&] {
          const auto row = row_moments(m.dtype, m.bytes, rows, cols);
          const auto column = column_moments(m.dtype, m.bytes, rows, cols);
          if (by_row.empty()) by_row = row, by_column = column;
          ASSERT_EQ(row, by_row) << rows << " x " << cols;
          ASSERT_EQ(column, by_column) << rows << " x " << cols;
        });
      }
}

RC_GTEST_PROP(Moments, OfColumnsAreTheSameForAnyCutIntoRowsAtMultiplesOfTheStep, ()) {
  const auto rows = *rc::gen::inRange<std::int64_t>(0, 700), cols = *rc::gen::inRange<std::int64_t>(1, 300);
  const Matrix m = normal_matrix(Dtype::bf16, rows, cols, 0.1f, 1.0f);
  std::vector<Moments> cut(cols);
  for (std::int64_t r = 0; r < rows;) {
    const std::int64_t some = std::min(*rc::gen::inRange<std::int64_t>(1, 4) * kMomentRows, rows - r);
    add_to_column_moments(m.dtype, std::span(m.bytes).subspan(2 * r * cols, 2 * some * cols), some, cut);
    r += some;
  }
  RC_ASSERT(cut == column_moments(m.dtype, m.bytes, rows, cols));
}

RC_GTEST_PROP(Moments, OfTwoPartsCombineToThoseOfTheWhole,
              (const std::vector<std::int16_t>& numbers, std::uint8_t at)) {
  const std::vector<float> x(numbers.begin(), numbers.end());
  const std::size_t cut = x.empty() ? 0 : at % x.size();
  const auto whole = std::as_bytes(std::span(x)), left = whole.first(4 * cut), right = whole.subspan(4 * cut);
  const auto of = [](std::span<const std::byte> bytes) {
    return row_moments(Dtype::f32, bytes, 1, std::int64_t(bytes.size() / 4))[0];
  };
  const Moments together = combine(of(left), of(right)), want = of(whole);
  RC_ASSERT(together.count == want.count);
  RC_ASSERT(std::abs(together.mean - want.mean) <= 1e-10);
  RC_ASSERT(std::abs(together.m2 - want.m2) <= 1e-9 * (1 + want.m2));
}

TEST(Moments, RefuseOtherTypesAndSizesThatDoNotMatch) {
  const std::vector<std::byte> bytes(24);
  EXPECT_THROW(row_moments(Dtype::i16, bytes, 3, 4), Error);
  EXPECT_THROW(row_moments(Dtype::bf16, bytes, 3, 5), Error);
  EXPECT_THROW(column_moments(Dtype::bf16, bytes, -3, -4), Error);
  EXPECT_THROW(column_moments(Dtype::bf16, bytes, 3, 4, 2, 5), Error);
  std::vector<Moments> all(4);
  EXPECT_THROW(add_to_column_moments(Dtype::bf16, bytes, 4, all), Error);
  add_to_column_moments(Dtype::bf16, bytes, 3, all);
  EXPECT_THROW(add_to_column_moments(Dtype::bf16, bytes, 3, all), Error);
}

}  // namespace
}  // namespace upmoe
