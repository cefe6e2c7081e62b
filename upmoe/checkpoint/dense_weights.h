#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/moe_shape.h"

namespace upmoe {

enum class Role { embedding, matrix, attention, norm, ffn_norm, head, bias };

// One weight of a dense model, as the configuration says it must be.
struct DenseWeight {
  std::string name;
  std::vector<std::int64_t> shape;
  Role role;
  std::int64_t layer = -1;       // -1: outside the layers
  Matrix matrix = Matrix::gate;  // of Role::matrix
};

// Every weight of a Llama or Mistral, in the order of the model. A tied model has no head of its own; biases
// are there if the configuration has them. Source: transformers, modeling_llama.py and modeling_mistral.py.
std::vector<DenseWeight> dense_weights(const DenseConfig& config);

}  // namespace upmoe
