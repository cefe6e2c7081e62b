#include "upmoe/base/text.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>

#include "tests/fails_with.h"

namespace upmoe {
namespace {

using test::fails_with;

TEST(Printable, LeavesPlainTextAsItIs) {
  for (const std::string text : {"", "model.layers.0.mlp", "größe", "重み", "𝛾 and 🙂", "Ω\u00A0\u3000"})
    EXPECT_EQ(printable(text), text);
}

TEST(Printable, ShowsControlCharactersAsHex) {
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\x1b[31mred\r\n\t\x7f"), "\\x1b[31mred\\x0d\\x0a\\x09\\x7f");
  EXPECT_EQ(printable("\u0085 \u009B"), "\\xc2\\x85 \\xc2\\x9b");  // C1: some terminals obey them
}

TEST(Printable, ShowsWhatReordersOrBreaksLinesAsHex) {
  // Embeddings, overrides and isolates (Boucher, Anderson, "Trojan Source", arXiv:2111.00169); marks;
  // separators.
  for (const std::string text : {"\u202A", "\u202B", "\u202C", "\u202D", "\u202E", "\u2066", "\u2067",
                                 "\u2068", "\u2069", "\u200E", "\u200F", "\u061C", "\u2028", "\u2029"}) {
    EXPECT_EQ(printable("a" + text).substr(0, 3), "a\\x") << printable(text);
  }
  EXPECT_EQ(printable("\u2027\u202F\u2065\u206A\u061B"),
            "\u2027\u202F\u2065\u206A\u061B");  // their neighbours
}

TEST(Printable, ShowsBrokenUtf8AsHex) {
  EXPECT_EQ(printable("\x80"), "\\x80");             // a continuation with nothing in front
  EXPECT_EQ(printable("\xC3"), "\\xc3");             // ends early
  EXPECT_EQ(printable("\xE2\x82x"), "\\xe2\\x82x");  // breaks off
  EXPECT_EQ(printable("\xC0\xAF"), "\\xc0\\xaf");    // overlong "/"
  EXPECT_EQ(printable("\xE0\x80\xAF"), "\\xe0\\x80\\xaf");
  EXPECT_EQ(printable("\xF0\x80\x80\xAF"), "\\xf0\\x80\\x80\\xaf");
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");           // half of a surrogate pair
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
  EXPECT_EQ(printable("\xFF\xFE"), "\\xff\\xfe");
}

TEST(Printable, CutsLongText) {
  EXPECT_EQ(printable("12345", 5), "12345");
  EXPECT_EQ(printable("123456", 5), "12345...");
  EXPECT_LE(printable(std::string(1'000'000, 'x')).size(), 210u);
}

RC_GTEST_PROP(Printable, GivesTextThatIsPrintable, (const std::string& text)) {
  const std::string once = printable(text, 10'000);
  RC_ASSERT(printable(once, 100'000) == once);
}

TEST(HumanBytes, CountsInDecimalUnits) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.00 kB");
  EXPECT_EQ(human_bytes(1'380'000'000), "1.38 GB");
  EXPECT_EQ(human_bytes(269'060'552), "269.1 MB");
  EXPECT_EQ(human_bytes(93'400'000'000), "93.4 GB");
  EXPECT_EQ(human_bytes(std::numeric_limits<std::uint64_t>::max()), "18446.7 PB");
}

TEST(HumanBytes, TakesTheNextUnitWhereRoundingReachesIt) {
  EXPECT_EQ(human_bytes(999'499), "999.5 kB");
  EXPECT_EQ(human_bytes(999'999), "1.00 MB");
  EXPECT_EQ(human_bytes(9'994'000), "9.99 MB");
  EXPECT_EQ(human_bytes(9'999'000), "10.0 MB");
}

TEST(HumanCount, HasNoUnitForSmallNumbers) {
  EXPECT_EQ(human_count(7), "7");
  EXPECT_EQ(human_count(692'000'000), "692.0 M");
  EXPECT_EQ(human_count(46'700'000'000), "46.7 B");
}

TEST(Join, PutsTheSeparatorBetween) {
  EXPECT_EQ(join({}), "");
  EXPECT_EQ(join(std::vector<std::string>{"a"}), "a");
  EXPECT_EQ(join(std::vector<std::string>{"a", "b", "c"}, "|"), "a|b|c");
}

TEST(ParseBytes, KnowsDecimalAndBinaryUnits) {
  EXPECT_EQ(parse_bytes("1000000", "x"), 1'000'000u);
  EXPECT_EQ(parse_bytes("12B", "x"), 12u);
  EXPECT_EQ(parse_bytes("5GB", "x"), 5'000'000'000u);
  EXPECT_EQ(parse_bytes("1.5kB", "x"), 1500u);
  EXPECT_EQ(parse_bytes("512MiB", "x"), 512u << 20);
  EXPECT_EQ(parse_bytes("2TB", "x"), 2'000'000'000'000u);
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
  for (const std::string text : {"", "GB", "-5GB", "0", "0.5", "5XB", "5 GB ", "1e30", "nan", "NaNGB", "inf",
                                 "infinity", "99999999999GB", "0x10", "5GB;rm", "\x1b[2J"})
    EXPECT_TRUE(fails_with<UsageError>([&] { parse_bytes(text, "--max-shard-size"); },
                                       {"--max-shard-size", "'" + printable(text) + "'", "5GB"}))
        << printable(text);
}

TEST(ParseBytes, AsksForTheUnitOfASmallNumber) {
  EXPECT_TRUE(fails_with<UsageError>([] { parse_bytes("5", "--max-shard-size"); },
                                     {"--max-shard-size", "'5' has no unit", "5GB"}));
  EXPECT_EQ(parse_bytes("5B", "x"), 5u);
}

TEST(Plural, CountsOneAndMany) {
  EXPECT_EQ(plural(1, "layer"), "1 layer");
  EXPECT_EQ(plural(2, "layer"), "2 layers");
}

TEST(ShellWord, QuotesWhatAShellWouldRead) {
  EXPECT_EQ(shell_word("a/b-c.d"), "a/b-c.d");
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(Guess, FindsANearMiss) {
  const std::vector<std::string> words = {"ratio", "indices", "router-init"};
  EXPECT_EQ(guess("raito", words), "; did you mean 'ratio'?");  // neighbours swapped
  EXPECT_EQ(guess("indexes", words), "; did you mean 'indices'?");
  EXPECT_EQ(guess("router_init", words), "; did you mean 'router-init'?");
}

TEST(Guess, SaysNothingWhenNothingIsNear) {
  const std::vector<std::string> words = {"ratio", "indices"};
  EXPECT_EQ(guess("temperature", words), "");
  EXPECT_EQ(guess("", words), "");
  EXPECT_EQ(guess("ratio", {}), "");
  EXPECT_EQ(guess("mps", std::vector<std::string>{"auto", "cpu", "cuda"}),
            "");  // two of three letters differ
  EXPECT_EQ(guess("x", std::vector<std::string>{"y"}), "");
  EXPECT_EQ(guess(std::string(100'000, 'r'), words), "");
}

}  // namespace
}  // namespace upmoe
