// config.json as the engine reads it, of dense models and of Mixtures: what is accepted is bounded.
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "upmoe/model/config.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  only_errors([&] {
    const model::ModelConfig config = model::parse_model_config(text_of(data, size), "config.json");
    const DenseConfig& llama = config.llama;
    for (const std::int64_t number : {llama.vocab_size, llama.hidden_size, llama.intermediate_size,
                                      llama.num_layers, llama.num_heads, llama.num_kv_heads, llama.head_dim})
      check(number >= 1 && number < (1ll << 31), "a size out of bounds");
    check(llama.head_dim % 2 == 0, "a head that cannot be rotated");
    check(llama.rope.theta > 1 && llama.rope.theta <= 1e30, "a theta out of bounds");
    for (const std::string& text : {llama.bos_token_id, llama.eos_token_id, llama.pad_token_id}) {
      const auto ids = nlohmann::json::parse(text);
      for (const auto& id : ids.is_array() ? ids : nlohmann::json::array({ids}))
        check(id.is_null() || id < llama.vocab_size, "a token that the vocabulary does not have");
    }
    if (!llama.rope.scaling.empty()) {
      const auto scaling = nlohmann::json::parse(llama.rope.scaling);
      check(scaling.at("factor") > 0, "a rope factor out of bounds");
    }
    if (!config.moe) return;
    const MoeShape& shape = config.moe->shape;
    check(1 <= shape.per_token && shape.per_token <= shape.experts, "a top-k of more experts than there are");
    check(shape.expert_size >= 1 && shape.expert_size <= (1ll << 31), "experts of a size out of bounds");
  });
  return 0;
}
