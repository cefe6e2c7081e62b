#include "upmoe/model/config.h"

#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/target/registry.h"

namespace upmoe::model {

ModelConfig read_model_config(const Folder& folder) {
  const std::string text = folder.config(), where = (folder.path() / "config.json").string();
  const nlohmann::json json = parse_json_object(text, where);
  const auto type = json.find("model_type");
  const auto& all = target::targets();
  const auto target =
      std::ranges::find_if(all, [&](const Target& t) { return type != json.end() && *type == t.model_type; });
  if (target == all.end()) return {parse_dense_config(text, where), std::nullopt};

  ModelConfig out{parse_llama_like_config(text, where, target->defaults, target->keys), std::nullopt};
  MoeShape shape;
  try {
    shape = target->shape(json);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the number or the size of the experts is not a whole number: {}", printable(where),
         printable(error.what()));
  }
  require(shape.experts >= 1 && shape.experts <= 100'000 && shape.per_token >= 1 &&
              shape.per_token <= shape.experts && shape.expert_size >= 1 &&
              shape.expert_size <= (std::int64_t{1} << 31),
          "{}: {} experts of {} neurons, top-{}, do not fit together", printable(where), shape.experts,
          shape.expert_size, shape.per_token);
  require(!out.llama.attention_bias || target->attention_bias, "{}: attention_bias is true, which no {} has",
          printable(where), target->model_type);
  out.moe = {.target = &*target,
             .shape = shape,
             .router = target->routing,
             .router_options = target->routing_options(json)};
  return out;
}

}  // namespace upmoe::model
