#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "upmoe/tensor/dtype.h"

namespace upmoe {

// Number of the first element that is NaN or infinite; none where all are finite, or are no floats of 16 or
// 32 bits. As fast as memory is read.
std::optional<std::size_t> find_not_finite(Dtype dtype, std::span<const std::byte> in);

// The same in words, for messages: "NaN at row 3, column 17", or "-Inf at 17" in one dimension; empty where
// all are finite. `first`: number of the first element of `in` in the tensor of that shape.
std::string not_finite_text(Dtype dtype, std::span<const std::int64_t> shape, std::uint64_t first,
                            std::span<const std::byte> in);

}  // namespace upmoe
