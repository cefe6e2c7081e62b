#include "upmoe/convert/record.h"

#include <fmt/chrono.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/index.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/checkpoint/record_version.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace {

using Json = nlohmann::ordered_json;

// A hub id, or the last part of a folder's path: what may stand in a public file.
std::string public_source(const Plan& plan) {
  if (plan.request.from_hub) return printable(plan.request.source.substr(0, plan.request.source.find('@')));
  return printable(std::filesystem::canonical(plan.request.folder).filename().string());
}

// Everything that decides the bytes of the output, by the names of the command line. The value is in
// `preset`.
std::vector<OptionInfo> settings(const Plan& plan) {
  const ConvertRequest& request = plan.request;
  std::vector<OptionInfo> out;
  const auto add = [&](const std::string& name, const std::string& value, const char* type) {
    out.push_back({name, value, "", {}, type});
  };
  const auto add_all = [&](const std::vector<OptionInfo>& options, const std::string& prefix) {
    for (const OptionInfo& option : options) add(prefix + option.name, option.preset, option.type.c_str());
  };
  add("method", request.method, "text");
  add_all(plan.method_options, "");
  add("experts", std::to_string(request.experts), "integer");
  add("top-k", std::to_string(request.per_token), "integer");
  add("target", request.target, "text");
  add("seed", std::to_string(request.seed), "integer");
  add("router-init", request.router_init, "text");
  add_all(plan.router_options, "router-");
  add("max-shard-size", std::to_string(request.max_shard_bytes), "text");
  if (request.keep_tied) add("keep-tied", "true", "flag");
  if (!request.allow.empty()) add("allow", join(request.allow, ","), "list");
  return out;
}

// ISO 8601, to the nanosecond: a person compares two of them.
std::string time_text(std::int64_t nanoseconds) {
  const std::time_t seconds = nanoseconds / 1'000'000'000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:09}Z", parts, nanoseconds % 1'000'000'000);
}

std::string toml_text(const std::string& text) {
  return nlohmann::json(printable(text, std::string::npos)).dump();
}

// As a whole: an object that keeps its order looks for each key that is added among all before it.
std::map<std::string, std::string> in_hex(const std::map<std::string, std::uint64_t>& hashes) {
  std::map<std::string, std::string> out;
  for (const auto& [name, hash] : hashes) out.emplace(name, hex(hash));
  return out;
}

Json option_json(const OptionInfo& setting) {
  if (setting.type == "text") return setting.preset;
  if (setting.type != "list") return Json::parse(setting.preset);
  Json out = Json::array();
  for (std::string_view left = setting.preset; !left.empty();) {
    const std::size_t end = std::min(left.find(','), left.size());
    out.push_back(left.substr(0, end));
    left.remove_prefix(std::min(end + 1, left.size()));
  }
  return out;
}

std::string toml_value(const OptionInfo& setting) {
  if (setting.type == "text") return toml_text(setting.preset);
  return setting.type == "list" ? option_json(setting).dump() : setting.preset;
}

}  // namespace

std::string config_json(const Plan& plan) {
  return plan.target->config(plan.source.config(), plan.shape, plan.tied, plan.torch_dtype).dump(2) + "\n";
}

std::string index_json(const Plan& plan) {
  WeightMap map;
  for (const PlannedFile& file : plan.files)
    for (const PlannedTensor& tensor : file.tensors) map.emplace(tensor.info.name, file.name);
  return index_text(map, plan.data_bytes, plan.parameters);
}

std::string function_preserving(const Plan& plan) {
  return plan.not_exact_because.empty() ? "yes (up to rounding)" : "no (" + plan.not_exact_because + ")";
}

std::string command_line(const Plan& plan) {
  std::string out = "upmoe convert " + (plan.request.from_hub ? public_source(plan) : "SOURCE") + " OUTPUT";
  for (const OptionInfo& setting : settings(plan)) {
    out += " --" + setting.name;
    if (setting.type != "flag")
      out += " " + shell_word(setting.preset);
    else if (setting.preset != "true")
      out += "=" + setting.preset;
  }
  return out;
}

std::string recipe_toml(const Plan& plan) {
  std::string out = fmt::format(
      "# Does it again: upmoe convert SOURCE OUTPUT --recipe upmoe-recipe.toml\n# upmoe {}\n", kVersion);
  if (plan.request.from_hub) out += "source = " + toml_text(plan.request.source) + "\n";
  for (const OptionInfo& setting : settings(plan)) out += setting.name + " = " + toml_value(setting) + "\n";
  return out;
}

std::string manifest_json(const Plan& plan, const TensorHashes& hashes,
                          const std::vector<SideFile>& side_files, FileHashes files) {
  Json options;
  for (const OptionInfo& setting : settings(plan)) options[setting.name] = option_json(setting);
  Json source = {{"name", public_source(plan)},
                 {"model_type", plan.source.config().model_type},
                 {"parameters", plan.source.parameters()},
                 {"config_xxh3", hex(xxh3(plan.source.config_text()))},
                 {"tensors", in_hex(hashes.source)}};
  const auto card = files.extract("README.md");
  for (const PlannedFile& file : plan.files) files[file.name] = xxh3(file.header);
  Json output = {{"parameters", plan.parameters}, {"active_parameters", plan.active_parameters},
                 {"bytes", plan.data_bytes},      {"card_xxh3", hex(card.mapped())},
                 {"files", in_hex(files)},        {"tensors", in_hex(hashes.output)}};
  Json carried = Json::array(), changed = Json::array();
  for (const SideFile& file : side_files) (file.changed ? changed : carried).push_back(file.name);
  return Json({{"upmoe", kVersion},
               {"version", kRecordVersion},
               {"command", command_line(plan)},
               {"options", options},
               {"experts", plan.shape.experts},
               {"top_k", plan.shape.per_token},
               {"function_preserving", plan.not_exact_because.empty()},
               {"not_exact_because", plan.not_exact_because},
               {"side_files", {{"carried", carried}, {"changed", changed}}},
               {"source", source},
               {"output", output}})
             .dump(1) +
         "\n";
}

std::string journal_head(const Plan& plan, std::size_t ranks) {
  Json options, source = {{"config.json", hex(xxh3(plan.source.config_text()))}};
  for (const OptionInfo& setting : settings(plan)) options[setting.name] = option_json(setting);
  for (const SafetensorsFile& file : plan.source.files().files())
    source[file.path().filename().string()] = {{"bytes", file.identity().bytes},
                                               {"modified", time_text(file.identity().modified)},
                                               {"header", hex(xxh3(file.header()))}};
  return Json({{"upmoe", kVersion}, {"options", options}, {"ranks", ranks}, {"source", source}}).dump();
}

std::string hashes_json(const TensorHashes& hashes) {
  return Json({{"output", hashes.output}, {"source", hashes.source}}).dump() + "\n";
}

TensorHashes parse_hashes(std::string_view text, std::string_view where) {
  const nlohmann::json json = parse_json_object(text, where);
  TensorHashes out;
  try {
    json.at("output").get_to(out.output);
    json.at("source").get_to(out.source);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: does not hold the hashes of a rank: {}", printable(where), printable(error.what()));
  }
  return out;
}

std::string model_card(const Plan& plan, std::string_view source_card) {
  std::string out = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n";
  for (const std::string& line :
       card_lines(source_card, {"license", "license_name", "license_link", "language"}))
    out += line + "\n";
  std::string base;
  if (plan.request.from_hub)
    base = "base_model: " + toml_text(public_source(plan)) + "\n";
  else
    for (const std::string& line : card_lines(source_card, {"base_model"})) base += line + "\n";
  if (base.empty()) base = "base_model: " + toml_text(public_source(plan)) + "\n";
  const DenseConfig& config = plan.source.config();
  out += base + fmt::format("tags:\n- moe\n- {}\n- upcycling\n- upmoe\n---\n\n", plan.target->name);
  out += fmt::format("# {}, {} experts\n\n", public_source(plan), plan.shape.experts);
  out += fmt::format(
      "A Mixture of Experts made from a dense {} model by upmoe {}. It has {} experts of {} neurons in each "
      "of {} layers, {} of "
      "them for each token: {} parameters, {} of them active.\n\n",
      config.model_type, kVersion, plan.shape.experts, plan.shape.expert_size, config.num_layers,
      plan.shape.per_token, human_count(plan.parameters), human_count(plan.active_parameters));
  out += fmt::format("Function-preserving: {}.\n\n", function_preserving(plan));
  out += "```\n" + command_line(plan) + "\n```\n\n";
  out +=
      "`upmoe.json` has the resolved options and a hash of every tensor, of the source and of this model; "
      "`upmoe-recipe.toml` does it again.\n";
  if (!plan.notes.empty()) out += "\n## Known limits\n\n";
  for (const std::string& note : plan.notes) out += "- " + note + "\n";
  return out;
}

std::string source_card(const Folder& source) {
  return source.has("README.md") ? read_small_file(source.file("README.md", source.path().string())) : "";
}

void each_text(const Plan& plan, const std::vector<SideFile>& side_files, std::string_view source_card,
               const std::function<void(const std::string&, std::string_view)>& take) {
  for (const SideFile& file : side_files) take(file.name, file.text);
  if (plan.files.size() > 1) take("model.safetensors.index.json", index_json(plan));
  take("config.json", config_json(plan));
  take("upmoe-recipe.toml", recipe_toml(plan));
  take("README.md", model_card(plan, source_card));
}

}  // namespace upmoe
