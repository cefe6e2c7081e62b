#pragma once
// Inside of gather.cpp. The vector kernels include nothing else of ours: see convert_kernels.h.
#include <cstddef>
#include <cstdint>

namespace upmoe {

// Rows of a matrix of which some columns are gathered. A kernel takes as many rows as a vector has elements,
// or less: it transposes them into `turned`, where a column is a vector, and transposes the chosen ones back.
struct ColumnStrip {
  const unsigned char* in;
  std::size_t in_stride;  // bytes from row to row, as out_stride
  std::size_t rows, cols;
  const std::int32_t* index;
  std::size_t count;
  unsigned char* out;
  std::size_t out_stride;
  unsigned char* turned;  // room for cols vectors, at a multiple of their size
};

struct GatherKernels {
  std::size_t vector;  // bytes
  void (*columns_of_2)(const ColumnStrip&);
  void (*columns_of_4)(const ColumnStrip&);
};
extern const GatherKernels kGatherAvx2, kGatherAvx512;

}  // namespace upmoe
