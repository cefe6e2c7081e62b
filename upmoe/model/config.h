#pragma once
#include <optional>
#include <string>

#include "upmoe/base/options.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/folder.h"
#include "upmoe/checkpoint/moe_shape.h"
#include "upmoe/target/target.h"

namespace upmoe::model {

struct MoeConfig {
  const Target* target;
  MoeShape shape;
  std::string router;  // of routing/, with its options
  Values router_options;
};

// What a model computes: a dense Llama or Mistral, or any of the targets.
struct ModelConfig {
  DenseConfig llama;             // everything outside the FFNs; of a dense model those too
  std::optional<MoeConfig> moe;  // none: dense
};

// Throws Error that says what can't be run and why.
ModelConfig read_model_config(const Folder& folder);

// The same of the text of a config.json. `where` is its path, for messages.
ModelConfig parse_model_config(std::string_view text, const std::string& where);

}  // namespace upmoe::model
