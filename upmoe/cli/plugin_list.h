#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "upmoe/cli/commands.h"

namespace upmoe::cli {

// What the verbs that list plug-ins print of one: of a Plugin, or of what has its name, summary, formula,
// source and options.
nlohmann::ordered_json plugin_json(const auto& entry) {
  nlohmann::ordered_json options = nlohmann::ordered_json::array();
  for (const OptionInfo& option : entry.options)
    options.push_back({{"name", option.name},
                       {"default", option.preset},
                       {"help", option.help},
                       {"choices", option.choices}});
  return {{"name", entry.name},
          {"summary", entry.summary},
          {"formula", entry.formula},
          {"source", entry.source},
          {"options", options}};
}

nlohmann::ordered_json plugin_list(const auto& registry) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const auto& entry : registry) out.push_back(plugin_json(entry));
  return out;
}

// A verb that prints such a list. `prefix` stands before the names of options.
Action list_command(CLI::App& app, const std::function<nlohmann::ordered_json()>& list,
                    const std::string& prefix);

}  // namespace upmoe::cli
