#include "upmoe/convert/journal.h"

#include <gtest/gtest.h>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

using test::fails_with;
using test::read_file;
using test::TempFolder;
using test::write_file;

constexpr const char* kHead =
    R"({"options":{"method":"drop","ratio":0.5},"ranks":1,"source":{"a":{"bytes":10}}})";

class JournalTest : public testing::Test {
 protected:
  std::filesystem::path path() const { return folder_ / "upmoe-journal"; }
  // A journal of n blocks, closed.
  std::string written(std::uint64_t n) const {
    {
      Journal journal(path(), kHead);
      for (std::uint64_t i = 0; i < n; ++i) journal.add(i % 3, i, 1000 + i);
    }
    return read_file(path());
  }
  TempFolder folder_;
};

TEST_F(JournalTest, RemembersWhatWasAdded) {
  written(5);
  const Journal again(path(), kHead);
  EXPECT_FALSE(again.is_empty());
  for (std::uint64_t i = 0; i < 5; ++i) {
    ASSERT_NE(again.find(i % 3, i), nullptr);
    EXPECT_EQ(*again.find(i % 3, i), 1000 + i);
  }
  EXPECT_EQ(again.find(0, 1), nullptr);
  EXPECT_EQ(again.find(7, 7), nullptr);
}

TEST_F(JournalTest, BelievesTheLastOfTwoRecords) {
  written(1);
  { Journal(path(), kHead).add(0, 0, 5); }
  EXPECT_EQ(*Journal(path(), kHead).find(0, 0), 5u);
}

// Killed at any byte of a write: what was whole stays, what was torn is gone, and more can be added behind
// it.
TEST_F(JournalTest, GoesOnBehindTheLastWholeRecordWhereverItIsCut) {
  const std::string text = written(3);
  const std::size_t head = text.find('\n') + 1, record = (text.size() - head) / 3;
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    write_file(path(), text.substr(0, cut));
    const std::size_t whole = cut < head ? 0 : (cut - head) / record;
    {
      Journal journal(path(), kHead);
      EXPECT_EQ(journal.is_empty(), whole == 0) << cut;
      for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(journal.find(i, i) != nullptr, i < whole) << cut;
      journal.add(9, 9, 9);
    }
    EXPECT_NE(Journal(path(), kHead).find(9, 9), nullptr) << cut;
  }
}

TEST_F(JournalTest, BelievesNothingFromAFlippedByteOn) {
  const std::string text = written(3);
  const JournalText whole = parse_journal(text);
  ASSERT_EQ(whole.blocks.size(), 3u);
  EXPECT_EQ(whole.valid_bytes, text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string spoilt = text;
    spoilt[i] = static_cast<char>(spoilt[i] ^ 1);
    const JournalText read = parse_journal(spoilt);
    EXPECT_LE(read.valid_bytes, i) << i;
    for (const auto& [block, hash] : read.blocks) EXPECT_EQ(whole.blocks.at(block), hash) << i;
  }
}

TEST_F(JournalTest, TakesWhatIsNoJournalForAnEmptyOne) {
  for (const std::string& text :
       {std::string(), std::string("\n"), std::string(5000, '\0'), std::string("upmoe-journal 1 "),
        std::string("upmoe-journal 1 0 {}\n0 0 0 0\n")}) {
    EXPECT_EQ(parse_journal(text).valid_bytes, 0u);
    write_file(path(), text);
    { Journal(path(), kHead).add(1, 2, 3); }
    EXPECT_EQ(*Journal(path(), kHead).find(1, 2), 3u);
  }
}

TEST_F(JournalTest, NamesTheDifferenceWhenItWasBegunForSomethingElse) {
  const std::string before = written(2);
  const auto refused = [&](std::string_view head, std::initializer_list<std::string_view> parts) {
    return fails_with([&] { Journal(path(), std::string(head)); }, parts);
  };
  EXPECT_TRUE(refused(R"({"options":{"method":"drop","ratio":0.3},"ranks":1,"source":{"a":{"bytes":10}}})",
                      {"/upmoe-journal", "used --ratio 0.5, not 0.3", "to start over"}));
  EXPECT_TRUE(refused(R"({"options":{"method":"drop"},"ranks":1,"source":{"a":{"bytes":10}}})",
                      {"used --ratio 0.5, and this one does not"}));
  EXPECT_TRUE(
      refused(R"({"options":{"method":"drop","ratio":0.5,"x":1},"ranks":1,"source":{"a":{"bytes":10}}})",
              {"did not use --x 1"}));
  EXPECT_TRUE(refused(R"({"options":{"method":"drop","ratio":0.5},"ranks":1,"source":{"a":{"bytes":11}}})",
                      {"had source a bytes 10, not 11"}));
  EXPECT_EQ(read_file(path()), before);
}

TEST_F(JournalTest, KeepsASecondRunAway) {
  const Journal first(path(), kHead);
  EXPECT_TRUE(fails_with([&] { Journal(path(), kHead); }, {"/upmoe-journal", "another run"}));
}

TEST_F(JournalTest, DoesNotFollowALink) {
  write_file(folder_ / "mine", "text");
  std::filesystem::create_symlink("mine", path());
  EXPECT_TRUE(fails_with([&] { Journal(path(), kHead); }, {"/upmoe-journal", "cannot open"}));
  EXPECT_EQ(read_file(folder_ / "mine"), "text");
}

}  // namespace
}  // namespace upmoe
