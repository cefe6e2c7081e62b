#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upmoe {

// Rotary position embedding, whichever of the three spellings the source used (docs/formats.md).
struct Rope {
  double theta = 10000.0;
  std::string type = "default";
  std::string scaling;  // the rope_scaling object as JSON text, with rope_type; empty for "default"
};

// What a dense Llama or Mistral is, every default of transformers filled in. Checked: every size is
// positive and bounded, so that products of two of them fit in 64 bits.
struct DenseConfig {
  std::string model_type;  // "llama" or "mistral"; that of the architecture for parse_llama_like_config
  std::int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  std::int64_t num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0, initializer_range = 0;
  Rope rope;
  std::optional<std::int64_t> sliding_window;
  bool tie_word_embeddings = false;
  bool attention_bias = false, mlp_bias = false;
  double attention_dropout = 0;
  std::string torch_dtype;                               // "bfloat16"; empty when the source doesn't say
  std::string bos_token_id, eos_token_id, pad_token_id;  // JSON text: a number, a list of numbers or null
  std::vector<std::string> unknown;                      // keys that we have never heard of
};

// What a configuration means where it says nothing: the defaults in which architectures differ.
struct ConfigDefaults {
  std::int64_t intermediate_size = 11008, max_position_embeddings = 2048;
  std::optional<std::int64_t> num_kv_heads;    // none: as many as heads
  bool has_window = false;                     // whether the architecture knows a sliding window at all
  std::optional<std::int64_t> sliding_window;  // none: no window
  double rope_theta = 10000.0, rms_norm_eps = 1e-6;
};

// Reads the text of a config.json. `where` is its path, for messages. Throws Error that says what can't be
// carried and why (quantised weights, another activation, a partial rotary factor, another architecture).
DenseConfig parse_dense_config(std::string_view text, std::string_view where);

// The same for an architecture that is a Llama but for its FFNs: everything outside them, and
// intermediate_size under that key. `own_keys` are those that it has beside a Llama's, so that they are not
// unknown.
DenseConfig parse_llama_like_config(std::string_view text, std::string_view where,
                                    const ConfigDefaults& defaults, const std::vector<std::string>& own_keys);

// Whether a key changes nothing in what a model computes, or belongs to other machinery.
bool is_ignored_key(std::string_view key);

}  // namespace upmoe
