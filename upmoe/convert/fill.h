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
  std::span<const std::byte>
      dense;  // the dense tensor, of the same shape; may be empty when the draft copies nothing
};

// Bytes [begin, begin + out.size()) of the tensor, both multiples of the element's size. The same bytes for
// any way in which a tensor is cut into ranges.
void fill(const Draft& draft, const Canvas& canvas, std::uint64_t begin, std::span<std::byte> out);

}  // namespace upmoe
