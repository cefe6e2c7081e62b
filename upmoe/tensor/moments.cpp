#include "upmoe/tensor/moments.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "upmoe/base/error.h"
#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

constexpr std::int64_t kPiece = 4096;  // numbers of a row that are taken at once: 16 kB of float
constexpr std::int64_t kTileRows = 64, kTileCols = 256;
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

Moments piece_moments(std::span<const float> x) {
  const double mean = sum(x, [](double v) { return v; }) / double(x.size());
  const double m2 = sum(x, [mean](double v) { return (v - mean) * (v - mean); });
  return {std::int64_t(x.size()), mean, m2};
}

// The columns of a tile of rows x cols numbers, added to `all`.
void add_tile(const float* tile, std::int64_t rows, std::int64_t cols, Moments* all) {
  double mean[kTileCols] = {}, m2[kTileCols] = {};
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) mean[c] += tile[r * kTileCols + c];
  for (std::int64_t c = 0; c < cols; ++c) mean[c] /= double(rows);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) {
      const double d = tile[r * kTileCols + c] - mean[c];
      m2[c] += d * d;
    }
  for (std::int64_t c = 0; c < cols; ++c) all[c] = combine(all[c], {rows, mean[c], m2[c]});
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
  std::array<float, kPiece> buffer;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; c += kPiece) {
      const auto piece = std::span(buffer).first(std::min(kPiece, cols - c));
      to_float(dtype, in.subspan((r * cols + c) * size, piece.size() * size), piece);
      all[r] = combine(all[r], piece_moments(piece));
    }
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
  const std::int64_t size = bits(dtype) / 8;
  std::vector<Moments> all(end - begin);
  std::vector<float> tile(kTileRows * kTileCols);
  for (std::int64_t c = begin; c < end; c += kTileCols) {
    const std::int64_t width = std::min(kTileCols, end - c);
    for (std::int64_t r = 0; r < rows; r += kTileRows) {
      const std::int64_t height = std::min(kTileRows, rows - r);
      for (std::int64_t i = 0; i < height; ++i)
        to_float(dtype, in.subspan(((r + i) * cols + c) * size, width * size),
                 std::span(tile).subspan(i * kTileCols, width));
      add_tile(tile.data(), height, width, &all[c - begin]);
    }
  }
  return all;
}

}  // namespace upmoe
