#include "upmoe/checkpoint/dense_weights.h"

#include <fmt/format.h>

namespace upmoe {

std::vector<DenseWeight> dense_weights(const DenseConfig& c) {
  const std::int64_t H = c.hidden_size, F = c.intermediate_size, V = c.vocab_size;
  const std::int64_t Q = c.num_heads * c.head_dim, KV = c.num_kv_heads * c.head_dim;
  std::vector<DenseWeight> out = {{"model.embed_tokens.weight", {V, H}, Role::embedding}};
  for (std::int64_t l = 0; l < c.num_layers; ++l) {
    const auto add = [&](const char* name, const std::vector<std::int64_t>& shape, Role role,
                         Matrix matrix = Matrix::gate) {
      out.push_back({fmt::format("model.layers.{}.{}.weight", l, name), shape, role, l, matrix});
      if ((role == Role::attention && c.attention_bias) || (role == Role::matrix && c.mlp_bias))
        out.push_back({fmt::format("model.layers.{}.{}.bias", l, name), {shape[0]}, Role::bias, l});
    };
    add("input_layernorm", {H}, Role::norm);
    add("self_attn.q_proj", {Q, H}, Role::attention);
    add("self_attn.k_proj", {KV, H}, Role::attention);
    add("self_attn.v_proj", {KV, H}, Role::attention);
    add("self_attn.o_proj", {H, Q}, Role::attention);
    add("post_attention_layernorm", {H}, Role::ffn_norm);
    add("mlp.gate_proj", {F, H}, Role::matrix, Matrix::gate);
    add("mlp.up_proj", {F, H}, Role::matrix, Matrix::up);
    add("mlp.down_proj", {H, F}, Role::matrix, Matrix::down);
  }
  out.push_back({"model.norm.weight", {H}, Role::norm});
  if (!c.tie_word_embeddings) out.push_back({"lm_head.weight", {V, H}, Role::head});
  return out;
}

}  // namespace upmoe
