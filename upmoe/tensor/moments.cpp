#include "upmoe/tensor/moments.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "upmoe/base/error.h"
#include "upmoe/base/isa.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/tensor/moments_kernels.h"

namespace upmoe {
namespace {

constexpr std::int64_t kPiece = 4096;  // numbers of a row that are taken at once: 16 kB of float
constexpr std::int64_t kTileCols = 256;
constexpr std::int64_t kTileStride =
    kTileCols + 16;  // a power of two would crowd its rows into few cache sets
constexpr int kLanes = 8;

// Sum of f(x) in eight lanes, which are added in pairs at the end.
template <class F>
double sum(std::span<const float> x, F f) {
  double lane[kLanes] = {};
  const std::size_t whole = x.size() / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += f(x[i + l]);
  for (std::size_t i = whole; i < x.size(); ++i) lane[i - whole] += f(x[i]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

void rows_scalar(const float* x, std::size_t stride, std::size_t rows, std::size_t count, double* mean,
                 double* m2) {
  for (std::size_t r = 0; r < rows; ++r) {
    const std::span row(x + r * stride, count);
    const double middle = sum(row, [](double v) { return v; }) / double(count);
    mean[r] = middle;
    m2[r] = sum(row, [middle](double v) { return (v - middle) * (v - middle); });
  }
}

void columns_scalar(const float* tile, std::size_t stride, std::size_t rows, std::size_t cols, double* mean,
                    double* m2) {
  std::fill_n(mean, cols, 0.0);
  std::fill_n(m2, cols, 0.0);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) mean[c] += tile[r * stride + c];
  for (std::size_t c = 0; c < cols; ++c) mean[c] /= double(rows);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) {
      const double d = tile[r * stride + c] - mean[c];
      m2[c] += d * d;
    }
}

constexpr MomentsKernels kScalar = {rows_scalar, columns_scalar};

const MomentsKernels& kernels() {
#ifdef UPMOE_X86_KERNELS
  if (active_isa() == Isa::avx512) return kMomentsAvx512;
  if (active_isa() == Isa::avx2) return kMomentsAvx2;
#endif
  return kScalar;
}

// all[c] = combine(all[c], {rows, mean[c], m2[c]}) where every count is the same, so that it divides once.
void combine_each(std::span<Moments> all, std::int64_t rows, const double* mean, const double* m2) {
  const double na = double(all[0].count), nb = double(rows), n = na + nb;
  const double share = nb / n, between = na * nb / n;
  for (std::size_t c = 0; c < all.size(); ++c) {
    Moments& a = all[c];
    const double delta = mean[c] - a.mean;
    a = a.count == 0
            ? Moments{rows, mean[c], m2[c]}
            : Moments{a.count + rows, a.mean + delta * share, a.m2 + m2[c] + delta * delta * between};
  }
}

// Adds rows of which `all` takes the columns from `begin`; tile by tile, the tiles of a column from above.
void add_rows(Dtype dtype, std::span<const std::byte> in, std::int64_t rows, std::int64_t cols,
              std::int64_t begin, std::span<Moments> all) {
  const std::int64_t size = bits(dtype) / 8, width = std::int64_t(all.size());
  std::vector<float> tile(kMomentRows * kTileStride);
  std::array<double, kTileCols> mean, m2;
  for (std::int64_t r = 0; r < rows; r += kMomentRows)
    for (std::int64_t c = 0; c < width; c += kTileCols) {
      const std::int64_t high = std::min(kMomentRows, rows - r), wide = std::min(kTileCols, width - c);
      for (std::int64_t i = 0; i < high; ++i)
        to_float(dtype, in.subspan(((r + i) * cols + begin + c) * size, wide * size),
                 std::span(tile).subspan(i * kTileStride, wide));
      kernels().columns(tile.data(), kTileStride, high, wide, mean.data(), m2.data());
      combine_each(all.subspan(c, wide), high, mean.data(), m2.data());
    }
}

void require_matrix(Dtype dtype, std::size_t bytes, std::int64_t rows, std::int64_t cols) {
  require(is_float_weight(dtype), "no statistics of {}; only of F32, BF16 and F16", name(dtype));
  require(rows >= 0 && cols >= 0 && bytes == std::size_t(rows) * cols * bits(dtype) / 8,
          "a matrix of {} x {} numbers of {} does not take {} bytes", rows, cols, name(dtype), bytes);
}

}  // namespace

double Moments::variance() const { return count < 2 ? 0 : m2 / double(count - 1); }

double Moments::deviation() const { return std::sqrt(variance()); }

Moments combine(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double na = double(a.count), nb = double(b.count), n = na + nb;
  const double delta = b.mean - a.mean;
  return {a.count + b.count, a.mean + delta * (nb / n), a.m2 + b.m2 + delta * delta * (na * nb / n)};
}

std::vector<Moments> row_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                                 std::int64_t cols) {
  require_matrix(dtype, in.size(), rows, cols);
  const std::int64_t size = bits(dtype) / 8;
  std::vector<Moments> all(rows);
  std::array<float, 2 * kPiece> buffer;
  std::array<double, 2> mean, m2;
  for (std::int64_t r = 0; r < rows; r += 2)  // two at once, for a processor that can add while it adds
    for (std::int64_t c = 0; c < cols; c += kPiece) {
      const std::int64_t both = std::min<std::int64_t>(2, rows - r), count = std::min(kPiece, cols - c);
      for (std::int64_t i = 0; i < both; ++i)
        to_float(dtype, in.subspan(((r + i) * cols + c) * size, count * size),
                 std::span(buffer).subspan(i * kPiece, count));
      kernels().rows(buffer.data(), kPiece, both, count, mean.data(), m2.data());
      for (std::int64_t i = 0; i < both; ++i) all[r + i] = combine(all[r + i], {count, mean[i], m2[i]});
    }
  return all;
}

std::vector<Moments> column_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                                    std::int64_t cols) {
  return column_moments(dtype, in, rows, cols, 0, cols);
}

std::vector<Moments> column_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                                    std::int64_t cols, std::int64_t begin, std::int64_t end) {
  require_matrix(dtype, in.size(), rows, cols);
  require(0 <= begin && begin <= end && end <= cols, "no columns {} to {} in a matrix of {}", begin, end,
          cols);
  std::vector<Moments> all(end - begin);
  add_rows(dtype, in, rows, cols, begin, all);
  return all;
}

void add_to_column_moments(Dtype dtype, std::span<const std::byte> in, std::int64_t rows,
                           std::span<Moments> all) {
  require_matrix(dtype, in.size(), rows, std::int64_t(all.size()));
  require(all.empty() || all[0].count % kMomentRows == 0,
          "rows come after {} others, which are not a multiple of {}", all.empty() ? 0 : all[0].count,
          kMomentRows);
  add_rows(dtype, in, rows, std::int64_t(all.size()), 0, all);
}

}  // namespace upmoe
