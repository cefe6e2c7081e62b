#pragma once
// Inside of moments.cpp. The vector kernels include nothing else of ours: see convert_kernels.h.
#include <cstddef>

namespace upmoe {

// Means and sums of squared distances from them. Every kernel adds in the order of the scalar one.
struct MomentsKernels {
  // Of each of 1 or 2 rows of `count` numbers, which begin at x and x + stride.
  void (*rows)(const float* x, std::size_t stride, std::size_t rows, std::size_t count, double* mean,
               double* m2);
  // Of each column of a tile. Columns are taken by eights: there is room for a multiple of eight of them.
  void (*columns)(const float* tile, std::size_t stride, std::size_t rows, std::size_t cols, double* mean,
                  double* m2);
};
extern const MomentsKernels kMomentsAvx2, kMomentsAvx512;

}  // namespace upmoe
