#include "upmoe/cli/plugin_list.h"
#include "upmoe/router_init/registry.h"
#include "upmoe/target/registry.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

Json target_list() {
  Json out = Json::array();
  for (const Target& entry : target::targets())
    out.push_back({{"name", entry.name},
                   {"summary", entry.summary},
                   {"source", entry.source},
                   {"weights", {entry.router, entry.expert.gate, entry.expert.up, entry.expert.down}}});
  return out;
}

}  // namespace

Action methods_command(CLI::App& app) {
  return list_command(
      app, [] { return plugin_list(upcycle::methods()); }, "");
}
Action targets_command(CLI::App& app) { return list_command(app, target_list, ""); }
Action router_inits_command(CLI::App& app) {
  return list_command(
      app, [] { return plugin_list(router_init::router_inits()); }, "router-");
}

}  // namespace upmoe::cli
