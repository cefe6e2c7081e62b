#include "upmoe/cli/plugin_list.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/routing/registry.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

const routing::RouterShape kUsual;  // top-2 of 8 experts

Json promises(const routing::Promises& promises) {
  return {{"causal", promises.causal}, {"batch_independent", promises.batch_independent}};
}

std::string causal_text(const routing::RouterTraits& traits) {
  const bool evaluation = traits.evaluation.causal, training = traits.training.causal;
  return evaluation == training ? (evaluation ? "yes" : "no: a token's experts depend on later tokens")
                                : fmt::format("in {} only", evaluation ? "evaluation" : "training");
}

std::string sum_text(const routing::RouterTraits& traits) {
  return traits.sums_to_one ? "1, so equal experts are the dense FFN"
                            : fmt::format("{:.3g} at the start (top-2 of 8)", traits.sum_at_start);
}

// With default options.
Json router_list() {
  Json out = Json::array();
  for (const routing::RouterInfo& router : routing::routers()) {
    const routing::RouterTraits traits = router.traits(kUsual, {});
    const routing::Holders holders = router.holders({});
    Json entry = plugin_json(router);
    entry["evaluation"] = promises(traits.evaluation);
    entry["training"] = promises(traits.training);
    entry["training"]["draws"] = traits.draws;
    entry["token_independent"] = traits.token_independent;
    entry["sums_to_one"] = traits.sums_to_one;
    entry["sum_at_start"] = traits.sum_at_start;
    entry["ragged"] = traits.ragged;
    entry["needs_token_ids"] = traits.needs_token_ids;
    entry["balances_itself"] = traits.balances_itself;
    entry["held_by"] = holders.by;
    entry["why_not"] = holders.why_not;
    entry["facts"] = {{"causal", causal_text(traits)},
                      {"weights", "sum to " + sum_text(traits)},
                      {"held by", holders.by.empty() ? "none: " + holders.why_not : join(holders.by)}};
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace

Action routers_command(CLI::App& app) { return list_command(app, router_list, ""); }

}  // namespace upmoe::cli
