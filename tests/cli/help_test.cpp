#include "upmoe/cli/help.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "upmoe/cli/commands.h"

namespace upmoe::cli {
namespace {

TEST(Help, BreaksLinesBetweenWords) {
  EXPECT_EQ(wrapped("one two three", 9, 2, 0), "one two\n  three");
  EXPECT_EQ(wrapped("one two three", 9, 2, 4), "one\n  two\n  three");
  EXPECT_EQ(wrapped("longer-than-all", 5, 2, 2), "longer-than-all");
  EXPECT_EQ(wrapped("", 5, 2, 2), "");
}

TEST(Help, FitsTheWidthOfTheTerminal) {
  for (const char* columns : {"60", "100"}) {
    ::setenv("COLUMNS", columns, /*overwrite=*/1);
    CLI::App app("a description of many words that has to be broken somewhere, whatever the width is", "x");
    app.formatter(std::make_shared<HelpFormatter>());
    convert_command(app);
    std::size_t longest = 0, length = 0;
    const std::string text = app.help();
    for (const char c : text.substr(0, text.find("Methods and router"))) {
      length = c == '\n' ? 0 : length + 1;
      longest = std::max(longest, length);
    }
    EXPECT_LE(longest, std::stoul(columns));
    EXPECT_GT(longest, std::stoul(columns) - 20);
  }
  ::unsetenv("COLUMNS");
}

TEST(Help, ShowsChoicesAndDefault) {
  EXPECT_EQ(help_text({"scale", "absolute", "what sigma is", {"absolute", "relative"}, "text"}),
            "what sigma is: absolute | relative [absolute]");
  EXPECT_EQ(help_text({"rank", "", "the rank", {}, "text"}), "the rank");
  EXPECT_EQ(help_name({"logit-std", "0.5", "", {}, "number"}, "router-"), "--router-logit-std X");
}

}  // namespace
}  // namespace upmoe::cli
