// MixtralForCausalLM: w1 is gate, w3 is up, w2 is down (transformers, modeling_mixtral.py). Softmax over all
// experts, top-k, and the k weights divided by their sum.
#include <nlohmann/json.hpp>

#include "upmoe/checkpoint/json.h"
#include "upmoe/target/registry.h"

namespace upmoe::target {
namespace {

using Json = nlohmann::ordered_json;

// Spelled so that transformers 4.57 and 5 read the same: rope_theta and rope_scaling instead of
// rope_parameters, torch_dtype instead of dtype, floats with a point (v5 checks types), no key left to a
// default (Mixtral's are not Llama's: rope_theta 1e6, eight key-value heads, rms_norm_eps 1e-5, 131072
// positions).
Json config(const DenseConfig& dense, const MoeShape& shape, bool tied, const std::string& torch_dtype) {
  return {
      {"architectures", {"MixtralForCausalLM"}},
      {"model_type", "mixtral"},
      {"vocab_size", dense.vocab_size},
      {"hidden_size", dense.hidden_size},
      {"intermediate_size", shape.expert_size},
      {"num_hidden_layers", dense.num_layers},
      {"num_attention_heads", dense.num_heads},
      {"num_key_value_heads", dense.num_kv_heads},
      {"head_dim", dense.head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", dense.max_position_embeddings},
      {"initializer_range", dense.initializer_range},
      {"rms_norm_eps", dense.rms_norm_eps},
      {"use_cache", true},
      {"bos_token_id", Json::parse(dense.bos_token_id)},
      {"eos_token_id", Json::parse(dense.eos_token_id)},
      {"pad_token_id", Json::parse(dense.pad_token_id)},
      {"tie_word_embeddings", tied},
      {"rope_theta", dense.rope.theta},
      {"rope_scaling", dense.rope.scaling.empty() ? Json(nullptr) : Json::parse(dense.rope.scaling)},
      {"sliding_window", dense.sliding_window ? Json(*dense.sliding_window) : Json(nullptr)},
      {"attention_dropout", dense.attention_dropout},
      {"num_local_experts", shape.experts},
      {"num_experts_per_tok", shape.per_token},
      {"output_router_logits", false},
      {"router_aux_loss_coef", 0.001},
      {"router_jitter_noise", 0.0},
      {"torch_dtype", torch_dtype},
      {"transformers_version", "4.57.1"},
  };
}

MoeShape shape(const nlohmann::json& config) {
  return {.experts = config_number(config, "num_local_experts", 8),
          .per_token = config_number(config, "num_experts_per_tok", 2),
          .expert_size = config_number(config, "intermediate_size", 14336)};
}

std::vector<std::string> caveats(const DenseConfig& dense) {
  std::vector<std::string> out;
  if (!dense.rope.scaling.empty())
    out.push_back(
        "SGLang's Mixtral ignores rope scaling, and so did vLLM's before 0.12: long contexts would be wrong "
        "there");
  if (dense.sliding_window && *dense.sliding_window < dense.max_position_embeddings)
    out.push_back(
        "vLLM, SGLang and llama.cpp ignore the sliding window of a Mixtral: contexts longer than it would "
        "differ there");
  if (dense.head_dim * dense.num_heads != dense.hidden_size)
    out.push_back("SGLang's Mixtral takes head_dim for hidden_size / heads, which is not so here");
  return out;
}

}  // namespace

Target mixtral() {
  const std::string moe = "model.layers.{l}.block_sparse_moe.";
  return {
      .name = "mixtral",
      .model_type = "mixtral",
      .summary = "MixtralForCausalLM: softmax top-k, weights renormalised",
      .source = "transformers, modeling_mixtral.py",
      .router = moe + "gate.weight",
      .expert = {.gate = moe + "experts.{e}.w1.weight",
                 .up = moe + "experts.{e}.w3.weight",
                 .down = moe + "experts.{e}.w2.weight"},
      .stacked = {.router = "model.layers.{l}.mlp.gate.weight",
                  .gate_up = "model.layers.{l}.mlp.experts.gate_up_proj",
                  .down = "model.layers.{l}.mlp.experts.down_proj"},
      .weights_sum_to_one = true,
      .attention_bias = false,
      .routing = "softmax_topk",
      .routing_options =
          [](const nlohmann::json& /*config*/) {
            return std::map<std::string, std::string>{{"renormalise", "true"}};
          },
      .defaults = {.intermediate_size = 14336,
                   .max_position_embeddings = 131072,
                   .num_kv_heads = 8,
                   .has_window = true,
                   .rope_theta = 1e6,
                   .rms_norm_eps = 1e-5},
      .keys = {"num_local_experts", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef",
               "router_jitter_noise"},
      .config = config,
      .shape = shape,
      .caveats = caveats,
  };
}

}  // namespace upmoe::target
