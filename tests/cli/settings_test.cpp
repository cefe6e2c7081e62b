#include "upmoe/cli/settings.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"

namespace upmoe::cli {
namespace {

using test::fails_with;

struct Some {
  double ratio = 0.5;
  bool exact = true, replace = false;
  Choices allow{{}, {"router-init", "not-finite"}};
  void visit(auto&& field) {
    field(ratio, "ratio", "");
    field(exact, "exact", "");
    field(replace, "replace", "");
    field(allow, "allow", "");
  }
};

// What comes of a command line and a recipe, the way of every verb.
Some parsed(const std::vector<std::string>& words, const std::string& recipe = "") {
  const test::TempFolder folder;
  CLI::App app;
  Settings settings;
  for (const OptionInfo& option : describe<Some>()) settings.add(app, option, "Options");
  app.parse(std::vector<std::string>(words.rbegin(), words.rend()));  // CLI11 takes the last first
  if (!recipe.empty()) test::write_file(folder / "recipe.toml", recipe);
  return parse<Some>(settings.values(settings.recipe(recipe.empty() ? "" : folder / "recipe.toml", {})),
                     "'upmoe x'");
}

TEST(Settings, TakeAListByRepetition) {
  EXPECT_EQ(parsed({"--allow", "not-finite", "--allow", "router-init"}).allow.values,
            (std::vector<std::string>{"router-init", "not-finite"}));
}

TEST(Settings, TakeAListFromARecipe) {
  EXPECT_EQ(parsed({}, "allow = [\"not-finite\"]\n").allow.values, std::vector<std::string>{"not-finite"});
  EXPECT_EQ(parsed({}, "allow = []\n").allow.values, std::vector<std::string>());
  EXPECT_EQ(parsed({"--allow", "not-finite"}, "allow = [\"router-init\"]\n").allow.values,
            (std::vector<std::string>{"router-init", "not-finite"}));
}

TEST(Settings, RefuseAListWhereOneValueIsExpected) {
  EXPECT_TRUE(fails_with<UsageError>([] { parsed({}, "ratio = [\"0.5\"]\n"); }, {"recipe.toml", "'ratio'"}));
  EXPECT_TRUE(fails_with<UsageError>([] { parsed({}, "allow = [1]\n"); }, {"recipe.toml", "'allow'"}));
}

TEST(Settings, RefuseAWordThatIsNotInTheList) {
  EXPECT_TRUE(fails_with<UsageError>(
      [] {
        parsed({"--allow", "router-intit"});
      },
      {"'allow'", "'router-intit'", "router-init, not-finite", "did you mean"}));
}

TEST(Settings, SwitchAFlagOff) {
  EXPECT_TRUE(parsed({}).exact);
  EXPECT_FALSE(parsed({"--exact=false"}).exact);  // as a record has it
}

TEST(Settings, KeepForceAsAnOldNameOfReplace) {
  EXPECT_TRUE(parsed({"--replace"}).replace);
  EXPECT_TRUE(parsed({"--force"}).replace);
}

TEST(Settings, RefuseARecipeThatIsNotThere) {
  const Settings settings;
  EXPECT_TRUE(
      fails_with<UsageError>([&] { settings.recipe("/nonexistent.toml", {}); }, {"/nonexistent.toml"}));
}

TEST(Settings, RefuseToReplaceByARecipe) {
  EXPECT_TRUE(fails_with<UsageError>([] { parsed({}, "replace = true\n"); },
                                     {"recipe.toml", "'replace'", "command line"}));
}

}  // namespace
}  // namespace upmoe::cli
