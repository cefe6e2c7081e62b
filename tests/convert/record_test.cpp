#include "upmoe/convert/record.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/base/hash.h"

namespace upmoe {
namespace {

class RecordTest : public testing::Test {
 protected:
  // With options that no method of ours has yet.
  Plan plan(const std::vector<OptionInfo>& options = {}) const {
    test::make_tiny_llama(temp_ / "dense", {});
    ConvertRequest request;
    request.source = (temp_ / "dense").string();
    request.folder = temp_ / "dense";
    request.allow = {"router-init", "not-finite"};
    Plan plan = make_plan(request);
    for (const OptionInfo& option : options) plan.method_options.push_back(option);
    return plan;
  }
  test::TempFolder temp_;
};

TEST_F(RecordTest, WritesAFlagAsTheCommandLineTakesIt) {
  const std::string line =
      command_line(plan({{"exact", "false", "", {}, "flag"}, {"whole", "true", "", {}, "flag"}}));
  EXPECT_NE(line.find(" --exact=false --whole "), std::string::npos) << line;
}

TEST_F(RecordTest, WritesATextWhole) {
  const std::string text = std::string(500, 'x') + " it's \"quoted\"";
  const Plan made = plan({{"note", text, "", {}, "text"}});
  EXPECT_NE(recipe_toml(made).find("note = " + nlohmann::json(text).dump() + "\n"), std::string::npos);
  EXPECT_NE(command_line(made).find(" --note '" + std::string(500, 'x') + " it'\\''s \"quoted\"'"),
            std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(manifest_json(made, {}, {}, {{"README.md", 1}}))["options"]["note"], text);
}

TEST_F(RecordTest, WritesWhatWasAllowed) {
  const Plan made = plan();
  EXPECT_NE(recipe_toml(made).find("allow = [\"router-init\",\"not-finite\"]\n"), std::string::npos);
  EXPECT_NE(command_line(made).find(" --allow router-init,not-finite"), std::string::npos);
}

TEST_F(RecordTest, HasAHashOfEveryFileAndApartFromThemOfTheCard) {
  const Plan made = plan();
  const auto output =
      nlohmann::json::parse(manifest_json(made, {}, {}, {{"config.json", 1}, {"README.md", 2}}))["output"];
  EXPECT_EQ(output["files"], (nlohmann::json{{"config.json", "0000000000000001"},
                                             {"model.safetensors", hex(xxh3(made.files[0].header))}}));
  EXPECT_EQ(output["card_xxh3"], "0000000000000002");
}

}  // namespace
}  // namespace upmoe
