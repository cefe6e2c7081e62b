#include "upmoe/checkpoint/plain_yaml.h"

#include <gtest/gtest.h>

#include <vector>

namespace upmoe {
namespace {

bool plain(const std::vector<std::string>& lines) { return is_plain_yaml(lines); }

TEST(PlainYaml, IsWhatCardsSay) {
  for (const char* line :
       {"license: apache-2.0", "license: 0bsd", "license: llama3.1", "license: 'cc-by-nc-4.0'",
        "license: \"mit\"", "license_name: Llama 3 (a licence)", "license_link: https://x.y/z#a",
        "language: [en, 'de', \"no\"]", "language: []", "base_model: 01-ai/Yi-6B",
        "license:", "license:  mit ", "license: mit # and more"})
    EXPECT_TRUE(plain({line})) << line;
  EXPECT_TRUE(plain({"language:", "- en", "- de"}));
  EXPECT_TRUE(plain({"language:", "  - en", "  - 'no'"}));
}

TEST(PlainYaml, IsNothingThatDoesNotEnd) {
  for (const char* line :
       {"license: [mit", "license: mit]x: [", "license: {a", "license: {a: b}", "license: 'mit",
        "license: \"mit", "license: \"a\\\"", "license: 'a'b", "license: 'a' 'b'", "language: [a, ]b]",
        "language: [a, [b]]", "language: ['a]", "language: [a,, b]", "language: [\"a, b\"]"})
    EXPECT_FALSE(plain({line})) << line;
}

TEST(PlainYaml, IsNothingThatMeansMore) {
  for (const char* line : {"license: a: b",
                           "license: a:",
                           "license: *x",
                           "license: &x mit",
                           "license: !!python/name:os.system",
                           "license: |",
                           "license: >-",
                           "license: @x",
                           "license: `x`",
                           "license: %x",
                           "license: - x",
                           "license: ? x",
                           "license: # x",
                           "license: =",
                           "license: 2021-99-99",
                           "license: 0b_",
                           "license:mit",
                           "license: , x",
                           "license: 1e5",
                           "license: 0x"})
    EXPECT_FALSE(plain({line})) << line;
}

TEST(PlainYaml, IsNothingWhoseLinesDoNotStandInOneColumn) {
  EXPECT_FALSE(plain({"language:", "- en", "  - de"}));
  EXPECT_FALSE(plain({"language:", "  - en", "- de"}));
  EXPECT_FALSE(plain({"language:", "- en", "de"}));
  EXPECT_FALSE(plain({"language:", "  en"}));
  EXPECT_FALSE(plain({"language: x", "- en"}));
  EXPECT_FALSE(plain({"language:", "- - en"}));
  EXPECT_FALSE(plain({"language:", "- a: b"}));
  EXPECT_FALSE(plain({"language:", "-"}));
  EXPECT_FALSE(plain({"language:", ""}));
}

}  // namespace
}  // namespace upmoe
