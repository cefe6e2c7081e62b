#pragma once
#include <cstddef>
#include <span>

#include "upmoe/tensor/dtype.h"

namespace upmoe {

// Between stored weights (F32, BF16 or F16; little-endian, at any address) and float. As IEEE 754 and
// torch have it: to the nearest, ties to even; subnormals stay, overflow is infinite. A NaN keeps its sign
// and upper bits; rounding to 16 bits and widening of F16 make it quiet.
// Throws Error when the type is another one or the sizes do not match.
void to_float(Dtype from, std::span<const std::byte> in, std::span<float> out);
void from_float(std::span<const float> in, Dtype to, std::span<std::byte> out);

}  // namespace upmoe
