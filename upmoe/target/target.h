#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/moe_shape.h"

namespace upmoe {

struct FfnNames {
  std::string gate, up, down;
  const std::string& of(Matrix matrix) const {
    return matrix == Matrix::gate ? gate : matrix == Matrix::up ? up : down;
  }
};

// All experts of a layer in one tensor: gate_up [E, 2F, H], gate rows first, and down [E, H, F].
struct StackedNames {
  std::string router, gate_up, down;
};

// A Mixture-of-Experts architecture of Hugging Face, as data: no loop, no I/O. It says what things are called
// and what it can hold, and knows nothing of how experts come to be. Weights outside the FFNs keep their
// Llama names.
struct Target {
  std::string name;        // as --target takes it
  std::string model_type;  // in config.json
  std::string summary;     // the class in transformers
  std::string source;
  std::string router;    // [E, H]; {l} stands for the layer, {e} for the expert
  FfnNames expert;       // gate and up [F, H], down [H, F]
  StackedNames stacked;  // the same weights as transformers 5 holds them in memory and some tools write them
  bool
      weights_sum_to_one;  // of a token's experts; then equal experts give the dense FFN, whatever the router
  bool attention_bias;     // whether q, k, v and o may have biases
  // How the model is run (routing/): the name of a router, and its options with this config.json.
  std::string routing;
  std::map<std::string, std::string> (*routing_options)(const nlohmann::json& config);
  ConfigDefaults defaults;        // of a config.json that was not written by us
  std::vector<std::string> keys;  // that its config.json has beside a Llama's
  // config.json of the output: every key explicit, since the architecture's defaults are not the source's.
  // `tied` says whether the head is the embedding; `torch_dtype` is that of the weights.
  nlohmann::ordered_json (*config)(const DenseConfig& dense, const MoeShape& shape, bool tied,
                                   const std::string& torch_dtype);
  // The inverse: experts, top-k and expert size of a config.json, the architecture's defaults filled in.
  MoeShape (*shape)(const nlohmann::json& config);
  // What some runtimes get wrong with this model, a sentence each.
  std::vector<std::string> (*caveats)(const DenseConfig& dense);
};

// A name of the table above for layer l and expert e.
std::string weight_name(const std::string& pattern, std::int64_t l, std::int64_t e = 0);

}  // namespace upmoe
