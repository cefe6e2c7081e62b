#include "upmoe/cli/plugin_list.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "upmoe/base/text.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

void print(const Json& list, const std::string& prefix) {
  for (const Json& entry : list) {
    fmt::print("{}\n  {}\n", entry["name"].get<std::string>(), entry["summary"].get<std::string>());
    if (entry.contains("formula")) fmt::print("  formula  {}\n", entry["formula"].get<std::string>());
    fmt::print("  source   {}\n", entry["source"].get<std::string>());
    for (const Json& option : entry.value("options", Json::array()))
      fmt::print("  --{}{}  {} (default {})\n", prefix, option["name"].get<std::string>(),
                 option["help"].get<std::string>(), option["default"].get<std::string>());
    for (const Json& weight : entry.value("weights", Json::array()))
      fmt::print("  weight   {}\n", weight.get<std::string>());
    if (entry.contains("traits"))
      fmt::print("  traits   {}\n", join(entry["traits"].get<std::vector<std::string>>()));
  }
}

}  // namespace

std::vector<OptionInfo> json_option() { return {{"json", "false", "print JSON", {}, "flag"}}; }

Action list_command(CLI::App& app, const std::function<Json()>& list, const std::string& prefix) {
  const auto as_json = std::make_shared<bool>(false);
  app.add_flag("--json", *as_json, "print one JSON list");
  return [as_json, list, prefix] {
    if (*as_json)
      fmt::print("{}\n", list().dump(2));
    else
      print(list(), prefix);
    return kOk;
  };
}

}  // namespace upmoe::cli
