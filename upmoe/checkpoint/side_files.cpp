#include "upmoe/checkpoint/side_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/checkpoint/plain_yaml.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace {

constexpr std::array<std::string_view, 12> kCarried = {"tokenizer.json",
                                                       "tokenizer.model",
                                                       "tokenizer_config.json",
                                                       "special_tokens_map.json",
                                                       "added_tokens.json",
                                                       "vocab.json",
                                                       "merges.txt",
                                                       "tekken.json",
                                                       "chat_template.jinja",
                                                       "chat_template.json",
                                                       "generation_config.json",
                                                       "NOTICE"};
constexpr std::array<std::string_view, 4> kCarriedPrefixes = {"LICENSE", "LICENCE", "NOTICE", "USE_POLICY"};
constexpr std::array<std::string_view, 5> kLicenceEndings = {"txt", "md", "pdf", "rst", "html"};
constexpr std::string_view kTokenizerConfig = "tokenizer_config.json";
constexpr std::uint64_t kMostBytes = 256u << 20;  // of all of them: they are held in memory
constexpr std::uint64_t kMostConfigBytes = 16u << 20;

// ordered_json, whose parsing does not look for each key among all before it: parse_json_object has done
// that.
template <class Key, class Value, class Less, class Allocator>
struct AppendingMap : nlohmann::ordered_map<Key, Value, Less, Allocator> {
  using nlohmann::ordered_map<Key, Value, Less, Allocator>::ordered_map;
  Value& operator[](const Key& key) {
    this->emplace_back(key, Value{});
    return this->back().second;
  }
};
using OrderedJson = nlohmann::basic_json<AppendingMap>;

// What transformers would load code by (trust_remote_code), at any depth. Whether there was any.
bool drop_code(OrderedJson& json) {
  bool found = json.is_object() && json.erase("auto_map") > 0;
  if (json.is_structured())
    for (OrderedJson& value : json) found |= drop_code(value);
  return found;
}

// A licence text as models come with one: LICENSE, LICENSE-MIT, NOTICE.txt, LICENSE-2.0. A document of
// somebody's own may begin with the word too, and --replace deletes what this says.
bool is_plain_licence(std::string_view name) {
  const auto is_letter = [](char c) { return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z'); };
  const auto is_digit = [](char c) { return '0' <= c && c <= '9'; };
  const auto is_plain = [&](char c) {
    return is_letter(c) || is_digit(c) || c == '-' || c == '_' || c == '.';
  };
  if (!is_licence(name) || !std::ranges::all_of(name, is_plain)) return false;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return true;
  const std::string_view ending = name.substr(dot + 1);
  return (!ending.empty() && std::ranges::all_of(ending, is_digit)) ||
         std::ranges::find(kLicenceEndings, ending) != kLicenceEndings.end();
}

void add(std::vector<SideFile>& out, const Folder& folder, const std::string& name,
         const std::string& prefix) {
  const bool is_config = name == kTokenizerConfig;
  SideFile file{prefix + name, read_small_file(folder.file(name, folder.path().string()),
                                               is_config ? kMostConfigBytes : kMostBytes)};
  std::uint64_t bytes = file.text.size();
  for (const SideFile& other : out) bytes += other.text.size();
  require(bytes <= kMostBytes, "{}: with '{}' the tokenizer and other side files take more than {}",
          printable(folder.path().string()), printable(name), human_bytes(kMostBytes));
  if (is_config) {
    std::string both = readable_by_both(file.text, (folder.path() / name).string());
    file.changed = both != file.text;
    file.text = std::move(both);
  }
  out.push_back(std::move(file));
}

}  // namespace

bool is_licence(std::string_view name) {
  return std::ranges::any_of(kCarriedPrefixes, [&](std::string_view p) { return name.starts_with(p); });
}

bool is_side_file(std::string_view name) {
  return std::ranges::find(kCarried, name) != kCarried.end() || is_plain_licence(name);
}

std::vector<SideFile> side_files(const Folder& source) {
  std::vector<SideFile> out;
  for (const std::string& name : source.names())
    if (is_side_file(name) || is_licence(name)) add(out, source, name, "");  // any licence is carried
  const std::filesystem::path templates = source.path() / kTemplatesFolder;
  if (std::filesystem::symlink_status(templates).type() == std::filesystem::file_type::directory) {
    const Folder folder = source.folder(kTemplatesFolder);
    for (const std::string& name : folder.names())
      if (name.ends_with(".jinja")) add(out, folder, name, std::string(kTemplatesFolder) + "/");
  }
  return out;
}

std::vector<std::string> side_file_notes(const Folder& source) {
  const std::string name(kTokenizerConfig);
  if (!source.has(name)) return {};
  const std::string text = read_small_file(source.file(name, source.path().string()), kMostConfigBytes);
  parse_json_object(text, (source.path() / name).string());
  OrderedJson json = OrderedJson::parse(text);
  if (!drop_code(json)) return {};
  return {
      "tokenizer_config.json says that code of the source's own belongs to the tokenizer (auto_map): not "
      "carried, so the tokenizer may do other things here"};
}

std::string readable_by_both(const std::string& tokenizer_config, std::string_view where) {
  parse_json_object(tokenizer_config, where);  // refuses what is hostile; below, the order of keys is kept
  auto json = OrderedJson::parse(tokenizer_config);
  bool changed = drop_code(json);
  if (json.value("tokenizer_class", OrderedJson()) == "TokenizersBackend") {
    json["tokenizer_class"] = "PreTrainedTokenizerFast";
    json.erase("backend");
    json.erase("is_local");
    // Left to itself, the class of 4.57 adds token_type_ids, which no Llama or Mixtral takes.
    if (!json.contains("model_input_names")) json["model_input_names"] = {"input_ids", "attention_mask"};
    changed = true;
  }
  // v5 lists them under this name; v4 expects an object there and has the list under another.
  if (const auto extra = json.find("extra_special_tokens"); extra != json.end() && extra->is_array()) {
    if (!extra->empty() && !json.contains("additional_special_tokens"))
      json["additional_special_tokens"] = *extra;
    json.erase("extra_special_tokens");
    changed = true;
  }
  return changed ? json.dump(2) + "\n" : tokenizer_config;
}

std::vector<std::string> card_lines(std::string_view card, const std::vector<std::string>& keys) {
  std::vector<std::string> out, left = keys;  // a key that comes again is an error to the readers of a card
  std::vector<std::string> entry;             // the lines of the key that we are in
  const auto finish = [&] {
    if (!entry.empty() && is_plain_yaml(entry)) out.insert(out.end(), entry.begin(), entry.end());
    entry.clear();
  };
  bool in_header = false;
  while (!card.empty()) {
    const std::size_t end = std::min(card.find('\n'), card.size());
    std::string_view line = card.substr(0, end);
    card.remove_prefix(std::min(end + 1, card.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line == "---") {
      finish();
      if (in_header) return out;
      in_header = true;
      continue;
    }
    if (!in_header) break;
    const bool plain = line.size() <= 500 && printable(line, 1000) == line;
    const bool continues = line.starts_with(' ') || line.starts_with("- ");
    if (!continues) {
      finish();
      const std::size_t colon = line.find(':');
      const auto key = std::ranges::find(left, line.substr(0, colon));
      if (!plain || colon == std::string_view::npos || key == left.end()) continue;
      left.erase(key);
      entry.emplace_back(line);
    } else if (plain && !entry.empty()) {
      entry.emplace_back(line);
    }
  }
  return {};  // no header, or one without an end
}

}  // namespace upmoe
