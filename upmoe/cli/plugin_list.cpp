#include "upmoe/cli/plugin_list.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/help.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string choices_text(const Json& option) {
  const auto choices = option["choices"].get<std::vector<std::string>>();
  return choices.empty() ? "" : ": " + join(choices, " | ");
}

void print(const Json& list, const std::string& prefix) {
  for (const Json& entry : list) {
    fmt::print("{}\n  {}\n", entry["name"].get<std::string>(), entry["summary"].get<std::string>());
    if (entry.contains("formula")) fmt::print("  formula  {}\n", entry["formula"].get<std::string>());
    fmt::print("  source   {}\n", entry["source"].get<std::string>());
    for (const Json& option : entry.value("options", Json::array()))
      fmt::print("{}", help_line("--" + prefix + option["name"].get<std::string>(),
                                 option["help"].get<std::string>() + choices_text(option) + " [" +
                                     option["default"].get<std::string>() + "]"));
    for (const Json& weight : entry.value("weights", Json::array()))
      fmt::print("  weight   {}\n", weight.get<std::string>());
    const Json facts = entry.value("facts", Json::object());
    for (const auto& [label, text] : facts.items())
      fmt::print("  {:<8} {}\n", label, text.get<std::string>());
  }
}

// The list, or what of it has this name.
Json one_of(const Json& list, const std::string& name) {
  if (name.empty()) return list;
  std::vector<std::string> known;
  for (const Json& entry : list) {
    if (entry["name"] == name) return Json::array({entry});
    known.push_back(entry["name"]);
  }
  throw UsageError(
      fmt::format("there is no '{}'; there are: {}{}", printable(name), join(known), guess(name, known)));
}

}  // namespace

std::vector<OptionInfo> json_option() { return {{"json", "false", "print JSON", {}, "flag"}}; }

Action list_command(CLI::App& app, const std::function<Json()>& list, const std::string& prefix) {
  struct Arguments {
    std::string name;
    bool json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("NAME", arguments->name, "show this one only")->option_text("[NAME]");
  app.add_flag("--json", arguments->json, "print one JSON list");
  return [arguments, list, prefix] {
    const Json shown = one_of(list(), arguments->name);
    if (arguments->json)
      fmt::print("{}\n", shown.dump(2));
    else
      print(shown, prefix);
    return kOk;
  };
}

}  // namespace upmoe::cli
