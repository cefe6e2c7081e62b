#include "upmoe/checkpoint/own_names.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <span>
#include <string>

#include "upmoe/checkpoint/side_files.h"

namespace upmoe {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"config.json", "model.safetensors.index.json",
                                                    "upmoe.json", "upmoe-recipe.toml", "README.md"};
// With # for a number.
constexpr std::array<std::string_view, 2> kWeights = {"model.safetensors", "model-#-of-#.safetensors"};
// What else transformers and the hub put into a checkpoint's folder, and we never do.
constexpr std::array<std::string_view, 2> kOthersNames = {".gitattributes", "pytorch_model.bin.index.json"};
constexpr std::array<std::string_view, 4> kOthersWeights = {"pytorch_model.bin", "pytorch_model-#-of-#.bin",
                                                            "consolidated.safetensors",
                                                            "consolidated-#-of-#.safetensors"};
constexpr std::array<std::string_view, 2> kJournals = {"upmoe-journal", "upmoe-journal-#-of-#"};
constexpr std::array<std::string_view, 3> kWorking = {"upmoe-rank-#-of-#.json", "upmoe-rank-#-of-#.json.new",
                                                      kReplacedMark};

// The name with # for each run of digits; a # of its own is no number.
std::string without_numbers(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const bool is_digit = '0' <= c && c <= '9';
    if (!is_digit)
      out += c == '#' ? '?' : c;
    else if (!out.ends_with('#'))
      out += '#';
  }
  return out;
}

bool is_one_of(std::string_view name, std::span<const std::string_view> patterns) {
  return std::ranges::find(patterns, without_numbers(name)) != patterns.end();
}

// As mkostemp makes it (io/block_file): six letters and digits.
bool is_reflink_trial(std::string_view name) {
  constexpr std::string_view kBegin = "upmoe-reflink-trial-";
  return name.starts_with(kBegin) && name.size() == kBegin.size() + 6 &&
         std::ranges::all_of(name.substr(kBegin.size()),
                             [](unsigned char c) { return c < 128 && std::isalnum(c) != 0; });
}

}  // namespace

bool is_weights_name(std::string_view name) {
  return is_one_of(name, kWeights) || is_one_of(name, kOthersWeights);
}

bool is_journal_name(std::string_view name) { return is_one_of(name, kJournals); }

bool is_working_name(std::string_view name) {
  return is_journal_name(name) || is_one_of(name, kWorking) || is_reflink_trial(name);
}

bool is_own_name(std::string_view name, OwnKind kind) {
  return std::ranges::find(kNames, name) != kNames.end() || is_one_of(name, kWeights) || is_side_file(name) ||
         (kind == OwnKind::partial ? is_working_name(name)
                                   : std::ranges::find(kOthersNames, name) != kOthersNames.end() ||
                                         is_one_of(name, kOthersWeights));
}

}  // namespace upmoe
