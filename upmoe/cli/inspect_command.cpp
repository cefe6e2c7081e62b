#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/checkpoint/match_weights.h"
#include "upmoe/cli/commands.h"
#include "upmoe/cli/hub.h"
#include "upmoe/inspect/inspect.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

// Of upmoe.json, which is a stranger's file here: what can be read of it, nothing where it can't.
Json provenance(const Inspection& found) {
  Json json;
  try {
    if (!found.provenance.empty()) json = parse_json_object(found.provenance, "upmoe.json");
  } catch (const Error&) {
    return nullptr;
  }
  if (!json.is_object()) return nullptr;
  Json out;
  for (const char* key : {"upmoe", "command", "options", "function_preserving", "not_exact_because"})
    if (json.contains(key)) out[key] = json[key];
  if (json.contains("source") && json["source"].is_object() && json["source"].contains("name"))
    out["source"] = json["source"]["name"];
  return out;
}

Json to_json(const Inspection& found) {
  Json out = {{"model_type", printable(found.model_type)},
              {"num_layers", found.num_layers},
              {"num_experts", found.num_experts},
              {"top_k", found.top_k},
              {"hidden_size", found.hidden_size},
              {"expert_size", found.expert_size},
              {"dtype", found.dtype},
              {"dtypes", found.dtypes},
              {"parameters", found.parameters},
              {"active_parameters", found.active_parameters},
              {"num_shards", found.num_shards},
              {"tied", found.tied},
              {"stacked_experts", found.fused},
              {"identical_experts", found.identical_experts},
              {"layers_with_identical_experts", found.layers_with_identical},
              {"expert_cosine", nullptr},
              {"router", nullptr},
              {"not_finite", nullptr},
              {"looked_at_for_not_finite", nullptr},
              {"provenance", provenance(found)}};
  if (!found.not_finite.empty()) out["not_finite"] = found.not_finite;
  if (!found.looked_at.empty()) out["looked_at_for_not_finite"] = found.looked_at;
  if (found.likeness)
    out["expert_cosine"] = {
        {"mean", found.likeness->mean}, {"min", found.likeness->least}, {"max", found.likeness->most}};
  if (found.routers)
    out["router"] = {{"std_mean", found.routers->std_mean},
                     {"std_min", found.routers->std_least},
                     {"std_max", found.routers->std_most},
                     {"logit_std", found.routers->logit_std}};
  return out;
}

// "BF16" as transformers and `upmoe convert` spell it: "bfloat16".
std::string torch_name(const std::string& dtype) {
  static const std::map<std::string, std::string> names = {
      {"F32", "float32"}, {"BF16", "bfloat16"}, {"F16", "float16"}, {"F64", "float64"}};
  const auto it = names.find(dtype);
  return it == names.end() ? dtype : it->second;
}

std::string identical_text(const Inspection& found) {
  std::vector<std::string> groups;
  for (const std::vector<std::int64_t>& group : found.identical_experts)
    groups.push_back(fmt::format("{}", fmt::join(group, " = ")));
  if (!groups.empty()) return join(groups) + " (in every layer)";
  if (found.layers_with_identical > 0)
    return fmt::format("some in {} of {}, none in all", found.layers_with_identical,
                       plural(found.num_layers, "layer"));
  return "none";
}

std::string not_finite_text(const Inspection& found) {
  if (!found.not_finite.empty()) return some(found.not_finite);
  if (found.looked_at.empty()) return "not looked for; 'upmoe convert' looks at all weights";
  return fmt::format("none in {}; the other weights were not looked at", found.looked_at);
}

void print(const Inspection& found, const std::string& folder) {
  const bool moe = found.num_experts > 0;
  fmt::print("{}\n", printable(folder));
  fmt::print("family      {}, {}\n", printable(found.model_type), moe ? "Mixture of Experts" : "dense");
  fmt::print("layers      {}, hidden size {}, {} size {}\n", found.num_layers, found.hidden_size,
             moe ? "expert" : "FFN", found.expert_size);
  if (moe)
    fmt::print("experts     {}, top-{}{}\n", found.num_experts, found.top_k,
               found.fused ? ", stacked in one tensor per layer (only transformers 5 reads that)" : "");
  fmt::print("parameters  {}", human_count(found.parameters));
  if (moe) fmt::print(", {} of them active for each token", human_count(found.active_parameters));
  fmt::print("\ndtype       ");
  bool first = true;
  for (const auto& [dtype, count] : found.dtypes)
    fmt::print("{}{} {}", std::exchange(first, false) ? "" : ", ", torch_name(dtype), human_count(count));
  fmt::print("\nshards      {}\nlm_head     {}\n", found.num_shards,
             found.tied ? "tied to the embedding" : "untied");
  if (moe) fmt::print("identical experts: {}\n", identical_text(found));
  fmt::print("not finite  {}\n", not_finite_text(found));
  if (found.likeness)
    fmt::print("similarity  cosine between experts {:.4f} (from {:.4f} to {:.4f})\n", found.likeness->mean,
               found.likeness->least, found.likeness->most);
  if (found.routers)
    fmt::print(
        "router      weights of std {:.3g} (from {:.3g} to {:.3g}); expected std of the logits {:.2g}\n",
        found.routers->std_mean, found.routers->std_least, found.routers->std_most, found.routers->logit_std);
  const Json from = provenance(found);
  const auto text = [&](const char* key) {
    return from.is_object() && from.contains(key) && from[key].is_string()
               ? printable(from[key].get<std::string>(), 2000)
               : std::string();
  };
  if (!text("upmoe").empty())
    fmt::print("made by     upmoe {} from {}\n            {}\n", text("upmoe"), text("source"),
               text("command"));
}

}  // namespace

Action inspect_command(CLI::App& app) {
  struct Arguments {
    std::string folder;
    bool json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->folder, "folder or hub id of a dense Llama or Mistral, or of any Mixtral");
  app.add_flag("--json", arguments->json, "print one JSON object");
  return [arguments] {
    if (arguments->folder.empty()) throw UsageError("missing DIR; usage: upmoe inspect DIR");
    constexpr std::int64_t kRows = 64;
    const Inspection found = inspect(find_source(arguments->folder).folder, kRows,
                                     std::max(1u, std::thread::hardware_concurrency()));
    if (arguments->json)
      fmt::print("{}\n", to_json(found).dump(2, ' ', /*ensure_ascii=*/true));
    else
      print(found, arguments->folder);
    return found.not_finite.empty() ? kOk : kFailed;
  };
}

}  // namespace upmoe::cli
