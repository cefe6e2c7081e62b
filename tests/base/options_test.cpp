#include "upmoe/base/options.h"

#include <gtest/gtest.h>

#include "tests/fails_with.h"
#include "upmoe/base/plugin.h"

namespace upmoe {
namespace {

using test::fails_with;

struct Settings {
  double ratio = 0.5;
  std::int64_t groups = 4;
  Choice indices{"shared", {"shared", "per-matrix"}};
  std::string note;
  bool exact = false;

  void visit(auto&& field) {
    field(ratio, "ratio", "share of the neurons");
    field(groups, "groups", "how many");
    field(indices, "indices", "whose");
    field(note, "note", "anything");
    field(exact, "exact", "or not");
  }
};

TEST(Options, AreTheDefaultsWhenNothingIsSaid) {
  const auto options = parse<Settings>({}, "method 'drop'");
  EXPECT_EQ(options.ratio, 0.5);
  EXPECT_EQ(options.groups, 4);
  EXPECT_EQ(options.indices.value, "shared");
  EXPECT_EQ(options.note, "");
  EXPECT_FALSE(options.exact);
}

TEST(Options, AreReadByTheirType) {
  const auto options = parse<Settings>(
      {{"ratio", "0.25"}, {"groups", "-3"}, {"indices", "per-matrix"}, {"note", "a b"}, {"exact", "true"}},
      "x");
  EXPECT_EQ(options.ratio, 0.25);
  EXPECT_EQ(options.groups, -3);
  EXPECT_EQ(options.indices.value, "per-matrix");
  EXPECT_EQ(options.note, "a b");
  EXPECT_TRUE(options.exact);
}

TEST(Options, RefuseAValueOfAnotherType) {
  for (const std::string text : {"", "half", "0.5x", "0,5", " 0.5", "nan", "inf", "-inf", "1e999"})
    EXPECT_TRUE(fails_with<UsageError>(
        [&] {
          parse<Settings>({{"ratio", text}}, "x");
        },
        {"'ratio'", "'" + text + "'", "a number"}))
        << text;
  for (const std::string text : {"", "4.0", "four", "99999999999999999999", "4 "})
    EXPECT_TRUE(fails_with<UsageError>(
        [&] {
          parse<Settings>({{"groups", text}}, "x");
        },
        {"'groups'", "'" + text + "'", "a whole number"}))
        << text;
  EXPECT_TRUE(fails_with<UsageError>([] { parse<Settings>({{"exact", "yes"}}, "x"); }, {"'exact'", "'yes'"}));
}

TEST(Options, AnswerAnUnknownChoiceWithThoseThereAre) {
  EXPECT_TRUE(fails_with<UsageError>(
      [] {
        parse<Settings>({{"indices", "sharde"}}, "x");
      },
      {"'indices'", "'sharde'", "shared, per-matrix", "did you mean 'shared'?"}));
}

TEST(Options, AnswerAnUnknownNameWithThoseThereAre) {
  EXPECT_TRUE(fails_with<UsageError>(
      [] {
        parse<Settings>({{"ratoi", "1"}}, "method 'drop'");
      },
      {"method 'drop'", "'ratoi'", "ratio, groups, indices", "did you mean 'ratio'?"}));
  EXPECT_TRUE(fails_with<UsageError>(
      [] {
        parse<NoOptions>({{"ratio", "1"}}, "'copy'");
      },
      {"'copy'", "none"}));
  EXPECT_TRUE(fails_with<UsageError>([] { parse<NoOptions>({{"\x1b[2J", "1"}}, "'copy'"); }, {"\\x1b[2J"}));
}

TEST(Options, DescribeThemselves) {
  const std::vector<OptionInfo> described = describe<Settings>();
  ASSERT_EQ(described.size(), 5u);
  EXPECT_EQ(described[0].name, "ratio");
  EXPECT_EQ(described[0].preset, "0.5");
  EXPECT_EQ(described[0].help, "share of the neurons");
  EXPECT_EQ(described[0].type, "number");
  EXPECT_EQ(described[1].type, "integer");
  EXPECT_EQ(described[2].choices, (std::vector<std::string>{"shared", "per-matrix"}));
  EXPECT_EQ(described[3].type, "text");
  EXPECT_EQ(described[4].type, "flag");
  EXPECT_EQ(described[4].preset, "false");
}

TEST(Options, AreTheSameAfterBeingWrittenAndReadAgain) {
  Settings options{.ratio = 0.1,
                   .groups = 1ll << 62,
                   .indices = {"per-matrix", {"shared", "per-matrix"}},
                   .note = "n",
                   .exact = true};
  Values values;
  for (const OptionInfo& info : describe(options)) values[info.name] = info.preset;
  const auto again = parse<Settings>(values, "x");
  EXPECT_EQ(again.ratio, options.ratio);
  EXPECT_EQ(again.groups, options.groups);
  EXPECT_EQ(again.indices.value, options.indices.value);
  EXPECT_EQ(again.note, options.note);
  EXPECT_EQ(again.exact, options.exact);
}

struct Thing {
  virtual ~Thing() = default;
  virtual double ratio() const = 0;
};
struct Half final : Thing {
  using Options = Settings;
  explicit Half(const Options& options) : options_(options) {}
  double ratio() const override { return options_.ratio; }
  Options options_;
};

std::vector<Plugin<Thing>> registry() {
  return {plugin<Half, Thing>("half", "summary", "formula", "source"),
          plugin<Half, Thing>("quarter", "summary", "formula", "source")};
}

TEST(Plugin, IsMadeWithTheOptionsGiven) {
  const auto all = registry();
  EXPECT_EQ(find_plugin(all, "half", "thing").make({{"ratio", "0.75"}})->ratio(), 0.75);
  EXPECT_EQ(find_plugin(all, "quarter", "thing").resolve({{"ratio", "0.75"}}).front().preset, "0.75");
  EXPECT_TRUE(fails_with<UsageError>([&] { all[0].make({{"x", "1"}}); }, {"'half'", "'x'"}));
}

TEST(Plugin, ThatIsNotThereIsAnsweredWithThoseThatAre) {
  EXPECT_TRUE(
      fails_with<UsageError>([] { find_plugin(registry(), "hlaf", "upcycling method"); },
                             {"upcycling method", "'hlaf'", "half, quarter", "did you mean 'half'?"}));
}

}  // namespace
}  // namespace upmoe
