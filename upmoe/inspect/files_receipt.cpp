#include "upmoe/inspect/files_receipt.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/index.h"
#include "upmoe/checkpoint/own_names.h"
#include "upmoe/checkpoint/side_files.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace {

constexpr std::uint64_t kMostBytes = 256u << 20;  // of a side file, as it is carried
constexpr std::string_view kCard = "README.md", kConfig = "config.json", kRecord = "upmoe.json",
                           kRecipe = "upmoe-recipe.toml", kSingleFile = "model.safetensors",
                           kIndex = "model.safetensors.index.json";

bool is_of_weights(std::string_view name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

// Shards that the tensors are read from, and the index that names them.
bool is_read(const Weights& weights, const std::string& name) {
  const std::vector<std::string>& shards = weights.shard_names();
  if (std::ranges::find(shards, name) != shards.end()) return true;
  return name == kIndex && std::ranges::find(shards, kSingleFile) == shards.end();
}

// Whether transformers, vLLM or llama.cpp would take the file for a part of the model.
bool changes_what_is_loaded(std::string_view name) {
  return is_of_weights(name) || is_weights_name(name) || is_side_file(name) || name.ends_with(".jinja") ||
         name.ends_with(".py") || name == "adapter_config.json" || name.ends_with(".index.json");
}

std::set<std::string> must_be_known(const Record& record) {
  std::set<std::string> out;
  if (record.version < 2) return out;
  out.insert(record.side_files.begin(), record.side_files.end());
  for (const std::string_view name : {kConfig, kRecipe}) out.emplace(name);
  return out;
}

// Hash of a file's bytes; of a weights file of its header, as the tensors have hashes of their own.
std::optional<std::string> hash_of(const Folder& folder, const Weights& weights, const std::string& name) {
  const auto shard = std::ranges::find(weights.shard_names(), name);
  if (shard != weights.shard_names().end())
    return hex(
        xxh3(weights.files()[static_cast<std::size_t>(shard - weights.shard_names().begin())].header()));
  const std::string where = (folder.path() / kRecord).string(), below = std::string(kTemplatesFolder) + "/";
  const bool is_template = name.starts_with(below);
  const std::string last = is_template ? name.substr(below.size()) : name;
  require_plain_name(last, where);
  if (is_template && !folder.has(kTemplatesFolder)) return std::nullopt;
  const Folder place = is_template ? folder.folder(kTemplatesFolder) : folder;
  if (!place.has(last)) return std::nullopt;
  return hex(xxh3(read_small_file(place.file(last, where), kMostBytes)));
}

// Names of all files, those of templates with their folder; of other folders their own.
std::set<std::string> all_names(const Folder& folder) {
  std::set<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    const std::string name = entry.path().filename().string();
    if (name == kTemplatesFolder && entry.symlink_status().type() == std::filesystem::file_type::directory) {
      for (const std::string& one : folder.folder(name).names()) out.insert(name + "/" + one);
    } else {
      out.insert(name);
    }
  }
  return out;
}

// Whether a key that was added to config.json changes nothing in what transformers and vLLM load or generate:
// notes of who saved it, names of classes that no language model has, and settings that are off or, where
// that is another value, at transformers' preset.
bool changes_nothing(const std::string& key, const nlohmann::json& value) {
  static const std::set<std::string> kOfNoInfluence = {"_name_or_path",
                                                       "_commit_hash",
                                                       "_attn_implementation_autoset",
                                                       "transformers_version",
                                                       "is_llama_config",
                                                       "transformers.js_config",
                                                       "unsloth_version",
                                                       "unsloth_fixed",
                                                       "finetuning_task",
                                                       "id2label",
                                                       "label2id",
                                                       "problem_type"};
  static const nlohmann::json kPresets = {{"return_dict", true},
                                          {"max_length", 20},
                                          {"min_length", 0},
                                          {"num_beams", 1},
                                          {"num_beam_groups", 1},
                                          {"num_return_sequences", 1},
                                          {"temperature", 1.0},
                                          {"top_k", 50},
                                          {"top_p", 1.0},
                                          {"typical_p", 1.0},
                                          {"repetition_penalty", 1.0},
                                          {"length_penalty", 1.0},
                                          {"diversity_penalty", 0.0},
                                          {"no_repeat_ngram_size", 0},
                                          {"encoder_no_repeat_ngram_size", 0},
                                          {"pretraining_tp", 1},
                                          {"chunk_size_feed_forward", 0}};
  if (value.is_null() || kOfNoInfluence.contains(key)) return true;
  if (const auto preset = kPresets.find(key); preset != kPresets.end()) return *preset == value;
  return is_ignored_key(key) && (value == false || value.empty());
}

std::string shown(const nlohmann::json& value) {
  return printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 80);
}

// transformers 5 saves some fields under other names.
nlohmann::json with_older_names(nlohmann::json config) {
  if (const auto dtype = config.find("dtype"); dtype != config.end() && !config.contains("torch_dtype")) {
    config["torch_dtype"] = nlohmann::json(*dtype);
    config.erase("dtype");
  }
  const auto rope = config.find("rope_parameters");
  if (rope == config.end() || !rope->is_object() || !rope->contains("rope_theta") ||
      config.contains("rope_theta"))
    return config;
  nlohmann::json scaling = *rope;
  config.erase("rope_parameters");
  config["rope_theta"] = scaling["rope_theta"];
  scaling.erase("rope_theta");
  const bool is_plain = scaling == nlohmann::json{{"rope_type", "default"}};
  if (!config.contains("rope_scaling")) config["rope_scaling"] = is_plain ? nlohmann::json() : scaling;
  return config;
}

}  // namespace

FilesReceipt compare_files(const Folder& folder, const Weights& weights, const Record& record) {
  FilesReceipt out;
  bool other_shards = false;
  for (const auto& [name, hash] : record.files) {
    const std::optional<std::string> found = hash_of(folder, weights, name);
    if (name == kConfig) {
      out.has_config_as_written = found == hash;
    } else if (is_of_weights(name)) {
      other_shards |= found != hash;
    } else {
      ++out.num_files;
      if (found != hash) out.broken.push_back(printable(name) + (found ? " has other bytes" : " is missing"));
    }
  }
  if (other_shards)
    out.notes.emplace_back(
        "the weights lie in other files, or under other headers, than were written; their tensors are "
        "compared one by one");
  if (const auto card = hash_of(folder, weights, std::string(kCard)); card != record.card)
    out.notes.emplace_back(card ? "README.md was edited" : "README.md is missing");
  for (const std::string& name : all_names(folder)) {
    if (record.files.contains(name) || name == kRecord || name == kCard || name == kConfig ||
        is_read(weights, name))
      continue;
    const bool matters = changes_what_is_loaded(name);
    (matters ? out.broken : out.notes)
        .push_back(printable(name) + (matters ? " was added, and programs that load the model look for it"
                                              : " was added: upmoe.json does not know it"));
  }
  for (const std::string& name : must_be_known(record))
    if (!record.files.contains(name)) out.broken.push_back("upmoe.json has no hash of " + printable(name));
  return out;
}

ConfigDifferences config_differences(const nlohmann::json& saved, const nlohmann::json& expected) {
  const nlohmann::json found = with_older_names(saved);
  ConfigDifferences out;
  for (const auto& [key, value] : expected.items()) {
    const auto there = found.find(key);
    const bool is_missing = there == found.end();
    if (is_missing ? value.is_null() : *there == value) continue;
    std::string what = is_missing ? fmt::format("{} is missing, expected {}", key, shown(value))
                                  : fmt::format("{} is {}, expected {}", key, shown(*there), shown(value));
    (key == "transformers_version" ? out.notes : out.broken).push_back(std::move(what));
  }
  for (const auto& [key, value] : found.items())
    if (!expected.contains(key))
      (changes_nothing(key, value) ? out.notes : out.broken)
          .push_back(fmt::format("{} is {}, and was not written", printable(key), shown(value)));
  return out;
}

}  // namespace upmoe
