#pragma once
#include <map>
#include <string>
#include <vector>

#include "upmoe/base/plugin.h"

namespace upmoe::test {

// The options of `upmoe convert` that belong to no plug-in; tests/cli/convert_options_test.cpp keeps it true.
inline const std::vector<std::string> kConvertOptions = {
    "method",       "experts", "top-k", "target",    "router-init", "seed",    "max-shard-size",
    "threads",      "ranks",   "rank",  "keep-tied", "resume",      "reflink", "dry-run",
    "measure-disk", "replace", "allow", "recipe",    "json",        "quiet"};
// Names that a parser or a recipe has for something else.
inline const std::vector<std::string> kTakenNames = {"help", "version", "force", "source", "output"};

// What is wrong with the options of the plug-ins of a registry. They share one command line: there, a name
// that the program has itself can't be added, and of two plug-ins with one name only the first is asked.
template <class Entry>
std::vector<std::string> option_faults(const std::vector<Entry>& registry, const std::string& prefix) {
  std::vector<std::string> out;
  std::map<std::string, std::pair<std::string, OptionInfo>> known;  // by name: whose, and what it says
  for (const Entry& entry : registry)
    for (const OptionInfo& option : entry.options) {
      const std::string name = prefix + option.name;
      for (const std::vector<std::string>* taken : {&kConvertOptions, &kTakenNames})
        if (std::ranges::find(*taken, name) != taken->end())
          out.push_back(
              fmt::format("'{}' has an option --{}, which upmoe convert has itself", entry.name, name));
      const auto [it, is_new] = known.try_emplace(name, entry.name, option);
      const OptionInfo& other = it->second.second;
      if (!is_new && (option.type != other.type || option.preset != other.preset ||
                      option.help != other.help || option.choices != other.choices))
        out.push_back(fmt::format("--{} of '{}' and of '{}' differ in type, default, choices or help", name,
                                  it->second.first, entry.name));
    }
  return out;
}

}  // namespace upmoe::test
