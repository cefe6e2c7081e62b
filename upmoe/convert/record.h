#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "upmoe/checkpoint/side_files.h"
#include "upmoe/convert/block_maker.h"

namespace upmoe {

inline constexpr const char* kVersion = UPMOE_VERSION;

// What a conversion leaves behind for people and for later tools. No clock, host or place goes into any of
// it, so the same conversion writes the same bytes.
std::string config_json(const Plan& plan);  // config.json
std::string index_json(const Plan& plan);   // model.safetensors.index.json
// upmoe.json: docs/formats.md. `files`: hashes of all other files beside the weights.
using FileHashes = std::map<std::string, std::uint64_t>;
std::string manifest_json(const Plan& plan, const TensorHashes& hashes,
                          const std::vector<SideFile>& side_files, FileHashes files);
std::string recipe_toml(const Plan& plan);                               // upmoe-recipe.toml: does it again
std::string model_card(const Plan& plan, std::string_view source_card);  // README.md

// The model card of the source, empty where there is none.
std::string source_card(const Folder& source);
// Every file beside the weights but upmoe.json, in the order in which they are written.
void each_text(const Plan& plan, const std::vector<SideFile>& side_files, std::string_view source_card,
               const std::function<void(const std::string& name, std::string_view text)>& take);

// One line that says what a run's bytes follow from: the options, and the source as it is now. Two runs with
// the same line can go on with each other's work. `ranks`: how many processes share the work.
std::string journal_head(const Plan& plan, std::size_t ranks);

// The hashes of one of several processes, for the one that finishes last.
std::string hashes_json(const TensorHashes& hashes);
TensorHashes parse_hashes(std::string_view text, std::string_view where);

// The command that makes this output, without its places.
std::string command_line(const Plan& plan);

// "yes (up to rounding)" or "no (REASON)".
std::string function_preserving(const Plan& plan);

}  // namespace upmoe
