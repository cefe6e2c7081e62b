#pragma once
#include <map>
#include <string>
#include <vector>

#include "upmoe/checkpoint/dense_model.h"
#include "upmoe/inspect/moe_weights.h"
#include "upmoe/inspect/receipt.h"
#include "upmoe/inspect/record.h"

namespace upmoe {

using Hashes = std::map<std::string, std::string>;  // by the name of the tensor, as upmoe.json has them

// What is found in a layer of both models.
struct LayerReceipt {
  std::vector<Receipt::Kept> kept_E;
  std::int64_t covered = 0;
  std::map<std::string, std::int64_t> dtypes;
  Hashes output, source;
  std::int64_t promised = 0, held = 0;  // neurons, each counted in all three matrices
  std::vector<std::string> broken;
};

// Reads the experts and the router of layer l, and its dense FFN. `record`: what was promised, if anything;
// then the experts have the promised shape. Tensors of stacked experts are hashed by the names that they
// would have apart.
LayerReceipt compare_layer(const DenseModel& dense, const MoeWeights& moe, const Target& target,
                           std::int64_t l, const Record* record, const MoeShape& promised);

}  // namespace upmoe
