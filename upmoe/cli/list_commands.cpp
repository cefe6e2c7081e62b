#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "upmoe/cli/commands.h"
#include "upmoe/router_init/registry.h"
#include "upmoe/target/registry.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

template <class Interface>
Json to_json(const std::vector<Plugin<Interface>>& registry) {
  Json out = Json::array();
  for (const Plugin<Interface>& entry : registry) {
    Json options = Json::array();
    for (const OptionInfo& option : entry.options)
      options.push_back({{"name", option.name},
                         {"default", option.preset},
                         {"help", option.help},
                         {"choices", option.choices}});
    out.push_back({{"name", entry.name},
                   {"summary", entry.summary},
                   {"formula", entry.formula},
                   {"source", entry.source},
                   {"options", options}});
  }
  return out;
}

Json to_json(const std::vector<Target>& registry) {
  Json out = Json::array();
  for (const Target& entry : registry)
    out.push_back({{"name", entry.name},
                   {"summary", entry.summary},
                   {"source", entry.source},
                   {"weights", {entry.router, entry.expert.gate, entry.expert.up, entry.expert.down}}});
  return out;
}

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
  }
}

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

}  // namespace

std::vector<OptionInfo> json_option() { return {{"json", "false", "print JSON", {}, "flag"}}; }

Action methods_command(CLI::App& app) {
  return list_command(
      app, [] { return to_json(upcycle::methods()); }, "");
}
Action targets_command(CLI::App& app) {
  return list_command(
      app, [] { return to_json(target::targets()); }, "");
}
Action router_inits_command(CLI::App& app) {
  return list_command(
      app, [] { return to_json(router_init::router_inits()); }, "router-");
}

}  // namespace upmoe::cli
