#pragma once
#include <string>
#include <vector>

#include "upmoe/checkpoint/side_files.h"
#include "upmoe/convert/run.h"

namespace upmoe {

inline constexpr const char* kVersion = UPMOE_VERSION;

// What a conversion leaves behind for people and for later tools. No clock, host or place goes into any of
// it, so the same conversion writes the same bytes.
std::string config_json(const Plan& plan);  // config.json
std::string index_json(const Plan& plan);   // model.safetensors.index.json
std::string manifest_json(const Plan& plan, const RunRecord& run,
                          const std::vector<SideFile>& side_files);      // upmoe.json: docs/formats.md
std::string recipe_toml(const Plan& plan);                               // upmoe-recipe.toml: does it again
std::string model_card(const Plan& plan, std::string_view source_card);  // README.md

// The command that makes this output, without its places.
std::string command_line(const Plan& plan);

// "exact" or "not, because ..."
std::string function_preserving(const Plan& plan);

}  // namespace upmoe
