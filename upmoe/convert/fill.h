#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "upmoe/tensor/dtype.h"
#include "upmoe/upcycle/draft.h"

namespace upmoe {

// The tensor that a draft is carried out on, row-major.
struct Canvas {
  Dtype dtype;  // F32, BF16 or F16, of the output and of the dense tensor alike
  std::int64_t rows = 1, cols = 0;
  bool neurons_in_columns = false;  // down_HF; gate_FH and up_FH have them in rows
  // The dense tensor; may be empty when the draft copies nothing. Of the same shape, except for a Pick, which
  // looks at its own shape.
  std::span<const std::byte> dense;
  std::int64_t dense_rows = 0, dense_cols = 0;
};

// Bytes [begin, begin + out.size()) of the tensor, both multiples of the element's size. The same bytes for
// any way in which a tensor is cut into ranges.
void fill(const Draft& draft, const Canvas& canvas, std::uint64_t begin, std::span<std::byte> out);

}  // namespace upmoe
