#pragma once
#include <cstdint>
#include <vector>

#include "upmoe/inspect/moe_weights.h"

namespace upmoe {

// A matrix of an FFN in one pass over its bytes. Neurons of one model that have the same hash are taken for
// the same, wherever they stand; those of gate and up are rows, those of down are columns.
struct HashedMatrix {
  std::uint64_t whole = 0;  // XXH3, as upmoe.json has it
  std::vector<std::uint64_t> neurons;
};
HashedMatrix hash_matrix(const View& view, Matrix matrix);

}  // namespace upmoe
