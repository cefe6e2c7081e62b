#include "upmoe/balance/registry.h"
#include "upmoe/cli/plugin_list.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/routing/registry.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

const char* scope_text(balance::Scope scope) {
  return scope == balance::Scope::sequence      ? "sequence"
         : scope == balance::Scope::micro_batch ? "micro-batch"
                                                : "step";
}

// By router: why the two can't be trained together, with default options.
Json refused(const balance::LossInfo& loss) {
  Json out = Json::object();
  for (const routing::RouterInfo& router : routing::routers())
    if (const std::string why = loss.why_not(router.traits({}, {})); !why.empty()) out[router.name] = why;
  return out;
}

Json loss_list() {
  Json out = Json::array();
  for (const balance::LossInfo& loss : balance::losses()) {
    Json entry = plugin_json(loss);
    entry["scope"] = scope_text(loss.scope);
    entry["joint"] = loss.joint;
    entry["coefficient"] = loss.coefficient;
    entry["refused"] = refused(loss);
    std::vector<std::string> names;
    for (const auto& [name, why] : entry["refused"].items()) names.push_back(name);
    entry["facts"] = {{"scope", scope_text(loss.scope)},
                      {"default", fmt::format("coefficient {}", loss.coefficient)},
                      {"refused", names.empty() ? "with no router" : "with " + join(names)}};
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace

Action losses_command(CLI::App& app) { return list_command(app, loss_list, ""); }

}  // namespace upmoe::cli
