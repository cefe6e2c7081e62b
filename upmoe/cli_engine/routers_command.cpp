#include "upmoe/cli/plugin_list.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/routing/registry.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

// With default options.
Json traits_of(const routing::RouterInfo& router) {
  const routing::RouterTraits traits = router.traits({});
  Json out = Json::array();
  if (traits.causal) out.push_back("causal");
  if (traits.batch_independent_eval) out.push_back("batch-independent");
  if (traits.sums_to_one) out.push_back("sums-to-one");
  if (traits.ragged) out.push_back("ragged");
  return out;
}

Json router_list() {
  Json out = Json::array();
  for (const routing::RouterInfo& router : routing::routers()) {
    out.push_back(plugin_json(router));
    out.back()["traits"] = traits_of(router);
  }
  return out;
}

}  // namespace

Action routers_command(CLI::App& app) { return list_command(app, router_list, ""); }

}  // namespace upmoe::cli
