#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <set>

#include "tests/option_faults.h"
#include "upmoe/cli/commands.h"
#include "upmoe/router_init/registry.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::cli {
namespace {

// What the contract tests of the plug-ins take for granted.
TEST(ConvertOptions, AreThoseThatNoPluginMayHave) {
  std::set<std::string> names;
  for (const OptionInfo& option : convert_options()) names.insert(option.name);
  for (const MethodInfo& method : upcycle::methods())
    for (const OptionInfo& option : method.options) names.erase(option.name);
  for (const RouterInitInfo& init : router_init::router_inits())
    for (const OptionInfo& option : init.options) names.erase("router-" + option.name);
  EXPECT_EQ(names, std::set<std::string>(test::kConvertOptions.begin(), test::kConvertOptions.end()));
}

TEST(ConvertOptions, AreAcceptedByTheParserTogether) {
  CLI::App app;
  convert_command(app);
}

TEST(OptionFaults, AreFound) {
  const auto entry = [](const std::string& name, const OptionInfo& option) {
    return RouterInitInfo{.name = name, .options = {option}};
  };
  const OptionInfo ratio{"ratio", "0.5", "a share", {}, "number"},
      other{"ratio", "4", "a count", {}, "integer"}, seed{"seed", "0", "", {}, "integer"},
      init{"init", "", "", {}, "text"};
  using Registry = std::vector<RouterInitInfo>;
  EXPECT_EQ(test::option_faults(Registry{entry("a", ratio), entry("b", ratio)}, "").size(), 0u);
  EXPECT_EQ(test::option_faults(Registry{entry("a", ratio), entry("b", other)}, "").size(), 1u);
  EXPECT_EQ(test::option_faults(Registry{entry("a", seed)}, "").size(), 1u);
  EXPECT_EQ(test::option_faults(Registry{entry("a", seed)}, "router-").size(), 0u);
  EXPECT_EQ(test::option_faults(Registry{entry("a", init)}, "router-").size(), 1u);  // --router-init
}

}  // namespace
}  // namespace upmoe::cli
