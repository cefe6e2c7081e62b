#include "upmoe/model/config.h"

#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/target/registry.h"

namespace upmoe::model {
namespace {

// Of a model: each is made of tensors of some hundred bytes, however few numbers it has.
constexpr std::int64_t kMostExperts = 1 << 18;
constexpr std::int64_t kMostPerToken = 4096;  // each makes tables of the tokens wider

}  // namespace

ModelConfig read_model_config(const Folder& folder) {
  return parse_model_config(folder.config(), (folder.path() / "config.json").string());
}

ModelConfig parse_model_config(std::string_view text, const std::string& where) {
  const nlohmann::json json = parse_json_object(text, where);
  const auto type = json.find("model_type");
  const auto& all = target::targets();
  const auto target =
      std::ranges::find_if(all, [&](const Target& t) { return type != json.end() && *type == t.model_type; });
  if (target == all.end()) return {parse_dense_config(text, where), std::nullopt};

  ModelConfig out{parse_llama_like_config(text, where, target->defaults, target->keys), std::nullopt};
  const MoeShape shape = target->shape(json);
  require(shape.experts >= 1 && shape.experts <= 100'000 && shape.per_token >= 1 &&
              shape.per_token <= shape.experts && shape.expert_size >= 1 &&
              shape.expert_size <= (std::int64_t{1} << 31),
          "{}: {} experts of {} neurons, top-{}, do not fit together", printable(where), shape.experts,
          shape.expert_size, shape.per_token);
  require(!out.llama.attention_bias || target->attention_bias, "{}: attention_bias is true, which no {} has",
          printable(where), target->model_type);
  require(shape.experts * out.llama.num_layers <= kMostExperts,
          "{}: {} experts in each of {} layers; expected at most {} in all", printable(where), shape.experts,
          out.llama.num_layers, kMostExperts);
  require(shape.per_token <= kMostPerToken, "{}: {} experts for each token; expected at most {}",
          printable(where), shape.per_token, kMostPerToken);
  out.moe = {.target = &*target, .shape = shape, .router = target->routing, .router_options = {}};
  try {
    out.moe->router_options = target->routing_options(json);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: an option of the router is of the wrong type: {}", printable(where), printable(error.what()));
  }
  return out;
}

}  // namespace upmoe::model
