// config.json of the source: what is accepted is bounded, and gives a list of weights.
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/dense_weights.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  only_errors([&] {
    const DenseConfig config = parse_dense_config(text_of(data, size), "config.json");
    for (const std::int64_t number :
         {config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers,
          config.num_heads, config.num_kv_heads, config.head_dim, config.max_position_embeddings})
      check(number >= 1 && number < (1ll << 31), "a size out of bounds");
    check(config.num_heads % config.num_kv_heads == 0, "heads that do not share evenly");
    check(config.rope.theta > 0, "a theta out of bounds");
    check(config.rope.scaling.empty() == (config.rope.type == "default"), "a rope that is half one thing");
    if (!config.rope.scaling.empty())
      check(nlohmann::json::parse(config.rope.scaling).at("rope_type") == config.rope.type, "another rope");
    for (const std::string& id : {config.bos_token_id, config.eos_token_id, config.pad_token_id})
      check(nlohmann::json::accept(id), "a token id that is not JSON");
    for (const DenseWeight& weight : dense_weights(config))
      for (const std::int64_t length : weight.shape) check(length >= 1, "a weight without elements");
  });
  return 0;
}
