#pragma once
#include <ATen/core/Tensor.h>

#include "upmoe/checkpoint/dense_config.h"

// Shape letters: B sequences, T positions, D head size, d = D/2.
namespace upmoe::model {

struct RopeTable {
  at::Tensor cos_BTd, sin_BTd;  // float32, with the attention factor of yarn in them
};

// The rotations of these positions (int64), computed in float32 with transformers' operations
// (modeling_rope_utils.py): default, linear, dynamic, yarn, llama3. dynamic depends on the largest position.
RopeTable rope_table(const DenseConfig& config, const at::Tensor& position_BT);

}  // namespace upmoe::model
