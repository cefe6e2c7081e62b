#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "upmoe/base/options.h"

namespace upmoe {

// What a plug-in's file hands to its registry. `Interface` is what it makes: a Method, a RouterInit, a
// Router.
template <class Interface>
struct Plugin {
  std::string name;
  std::string summary;  // one line, lower case, for --help
  std::string formula;  // what it computes, in the notation of docs/
  std::string source;   // paper or code it comes from
  std::vector<OptionInfo> options;
  std::function<std::unique_ptr<Interface>(const Values&)> make;
  std::function<std::vector<OptionInfo>(const Values&)> resolve;  // every option, with the value in force
};

// For a class P with a nested struct Options (base/options.h) and a constructor that takes it.
template <class P, class Interface>
Plugin<Interface> plugin(std::string name, std::string summary, std::string formula, std::string source) {
  using Options = typename P::Options;
  const std::string owner = "'" + name + "'";
  return {std::move(name),
          std::move(summary),
          std::move(formula),
          std::move(source),
          describe<Options>(),
          [owner](const Values& values) { return std::make_unique<P>(parse<Options>(values, owner)); },
          [owner](const Values& values) { return describe(parse<Options>(values, owner)); }};
}

// The entry of that name; a name that isn't there is answered with those that are. `kind`: "upcycling
// method".
template <class Entry>
const Entry& find_plugin(const std::vector<Entry>& registry, const std::string& name, std::string_view kind) {
  std::vector<std::string> known;
  for (const Entry& entry : registry) {
    if (entry.name == name) return entry;
    known.push_back(entry.name);
  }
  throw UsageError(fmt::format("there is no {} '{}'; there are: {}{}", kind, printable(name), join(known),
                               guess(name, known)));
}

}  // namespace upmoe
