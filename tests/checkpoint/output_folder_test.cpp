#include "upmoe/checkpoint/output_folder.h"

#include <gtest/gtest.h>
#include <sys/file.h>

#include <optional>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::fails_with;
using test::read_file;
using test::TempFolder;
using test::write_file;

using Names = std::vector<std::string>;

class OutputFolderTest : public testing::Test {
 protected:
  fs::path make_checkpoint(const std::string& name, const std::string& text = "old") const {
    write_file(temp_ / name / "model.safetensors", "");
    return write_file(temp_ / name / "config.json", text).parent_path();
  }
  // Makes `place` with a new config.json.
  static void make(const fs::path& place, bool replace) {
    OutputFolder output(place, replace);
    write_file(output.partial() / "config.json", "new");
    output.commit();
  }
  TempFolder temp_;
};

TEST_F(OutputFolderTest, IsNotSeenBeforeItIsWhole) {
  OutputFolder output(temp_ / "out", false);
  write_file(output.partial() / "config.json", "new");
  EXPECT_EQ(output.partial(), temp_ / "out.upmoe-partial");
  EXPECT_EQ(temp_.names(), Names{"out.upmoe-partial"});
  output.commit();
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_EQ(read_file(temp_ / "out" / "config.json"), "new");
}

TEST_F(OutputFolderTest, IsNotMistakenForAnotherThatTookItsPlace) {
  OutputFolder output(temp_ / "out", false);
  fs::rename(output.partial(), temp_ / "elsewhere");
  EXPECT_TRUE(fails_with([&] { output.commit(); }, {"/out.upmoe-partial", "No such file"}));
  write_file(output.partial() / "config.json", "of someone else");
  EXPECT_TRUE(fails_with([&] { output.commit(); }, {"/out.upmoe-partial", "was replaced by another"}));
  EXPECT_FALSE(fs::exists(temp_ / "out"));
}

TEST_F(OutputFolderTest, LeavesNothingWhenItIsNotCommitted) {
  {
    OutputFolder output(temp_ / "a" / "b" / "out", false);
    write_file(output.partial() / "sub" / "file", "text");
  }
  EXPECT_EQ(temp_.names(), Names{});
}

TEST_F(OutputFolderTest, LeavesAloneTheParentsThatWereThere) {
  fs::create_directories(temp_ / "a");
  write_file(temp_ / "a" / "mine", "text");
  { OutputFolder output(temp_ / "a" / "b" / "c" / "out", false); }
  EXPECT_TRUE(fs::exists(temp_ / "a" / "mine"));
  EXPECT_FALSE(fs::exists(temp_ / "a" / "b"));
}

TEST_F(OutputFolderTest, LeavesAParentThatSomeoneElseUsesByNow) {
  {
    OutputFolder output(temp_ / "a" / "b" / "out", false);
    write_file(temp_ / "a" / "mine", "text");
  }
  EXPECT_TRUE(fs::exists(temp_ / "a" / "mine"));
  EXPECT_FALSE(fs::exists(temp_ / "a" / "b"));
}

TEST_F(OutputFolderTest, LeavesNothingWhenItCannotBeMade) {
  const std::string long_name(250, 'x');  // with what is appended, too long for a file system
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "a" / "b" / long_name, false); },
                         {"cannot make the folder"}));
  EXPECT_EQ(temp_.names(), Names{});
}

TEST_F(OutputFolderTest, KeepsItsParentsAfterTheCommit) {
  make(temp_ / "a" / "b" / "out", false);
  EXPECT_EQ(read_file(temp_ / "a" / "b" / "out" / "config.json"), "new");
}

TEST_F(OutputFolderTest, TakesAnEmptyFolderForNone) {
  fs::create_directory(temp_ / "out");
  make(temp_ / "out", false);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_EQ(read_file(temp_ / "out" / "config.json"), "new");
}

TEST_F(OutputFolderTest, RefusesAnExistingOne) {
  const fs::path place = make_checkpoint("out");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(place, false); },
                         {place.string(), "exists already", "--replace"}));
  EXPECT_EQ(read_file(place / "config.json"), "old");
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, ReplacesACheckpointWhenAskedTo) {
  const fs::path place = make_checkpoint("out");
  write_file(place / "stale.safetensors", "old");
  make(place, true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_EQ(read_file(place / "config.json"), "new");
  EXPECT_FALSE(fs::exists(place / "stale.safetensors"));
}

TEST_F(OutputFolderTest, KeepsTheOldOneUntilTheNewOneIsWhole) {
  const fs::path place = make_checkpoint("out");
  {
    OutputFolder output(place, true);
    write_file(output.partial() / "config.json", "new");
    EXPECT_EQ(read_file(place / "config.json"), "old");
  }
  EXPECT_EQ(read_file(place / "config.json"), "old");
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, NeverReplacesWhatIsNoCheckpoint) {
  write_file(temp_ / "home" / "letters" / "mother.txt", "text");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "home", true); },
                         {"/home", "not a checkpoint folder", "--replace"}));
  write_file(temp_ / "file", "text");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "file", true); }, {"/file", "not a folder"}));
  fs::create_symlink("nowhere", temp_ / "link");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "link", true); }, {"/link"}));
  EXPECT_TRUE(fs::exists(temp_ / "home" / "letters" / "mother.txt"));
  EXPECT_EQ(temp_.names(), (Names{"file", "home", "link"}));
}

TEST_F(OutputFolderTest, NeverReplacesAConfigurationWithoutWeights) {  // any project may have a config.json
  write_file(temp_ / "site" / "config.json", "{}");
  EXPECT_TRUE(
      fails_with([&] { OutputFolder output(temp_ / "site", true); }, {"/site", "not a checkpoint folder"}));
  EXPECT_EQ(temp_.names(), Names{"site"});
}

TEST_F(OutputFolderTest, ReplacesAnOutputOfOurOwn) {
  write_file(temp_ / "out" / "upmoe.json", "{}");
  make(temp_ / "out", true);
  EXPECT_FALSE(fs::exists(temp_ / "out" / "upmoe.json"));
}

TEST_F(OutputFolderTest, RefusesAMountPoint) {
  if (!fs::is_directory("/proc/self")) GTEST_SKIP() << "/proc is not mounted";
  EXPECT_TRUE(fails_with([] { OutputFolder output("/proc", true); }, {"/proc", "mount point"}));
}

TEST_F(OutputFolderTest, NeverReplacesWhatHasComeInTheMeantime) {
  EXPECT_TRUE(fails_with(
      [&] {
        OutputFolder output(temp_ / "out", false);
        write_file(output.partial() / "config.json", "new");
        write_file(temp_ / "out" / "letters" / "mother.txt", "text");
        output.commit();
      },
      {"/out", "exists already"}));
  EXPECT_TRUE(fs::exists(temp_ / "out" / "letters" / "mother.txt"));
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, FollowsALinkToAFolder) {
  make_checkpoint("real");
  fs::create_directory_symlink("real", temp_ / "link");
  make(temp_ / "link", true);
  EXPECT_TRUE(fs::is_symlink(temp_ / "link"));
  EXPECT_EQ(read_file(temp_ / "real" / "config.json"), "new");
}

TEST_F(OutputFolderTest, NamesWhatAKilledRunHasLeft) {
  write_file(temp_ / "out.upmoe-partial" / "file", "text");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "out", false); },
                         {"/out.upmoe-partial", "killed", "--replace"}));
  EXPECT_TRUE(fs::exists(temp_ / "out.upmoe-partial" / "file"));
}

TEST_F(OutputFolderTest, ClearsWhatAKilledRunHasLeftWhenAskedTo) {
  write_file(temp_ / "out.upmoe-partial" / "stale" / "file", "text");
  make(temp_ / "out", true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_FALSE(fs::exists(temp_ / "out" / "stale"));
}

TEST_F(OutputFolderTest, GoesOnInWhatAnEarlierRunHasLeft) {
  write_file(temp_ / "out.upmoe-partial" / "file", "half");
  OutputFolder output(temp_ / "out", false, OutputFolder::Leftover::resume);
  EXPECT_EQ(read_file(output.partial() / "file"), "half");
  output.commit();
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, LeavesThePartialFolderWhenItIsToKeepIt) {
  {
    OutputFolder output(temp_ / "a" / "out", false, OutputFolder::Leftover::resume);
    write_file(output.partial() / "file", "half");
    output.keep();
  }
  EXPECT_EQ(read_file(temp_ / "a" / "out.upmoe-partial" / "file"), "half");
  {
    OutputFolder output(temp_ / "a" / "out", false, OutputFolder::Leftover::resume);
    output.keep();
    output.keep(false);
  }
  EXPECT_FALSE(fs::exists(temp_ / "a" / "out.upmoe-partial"));
}

TEST_F(OutputFolderTest, IsSharedByThoseWhoWantTo) {
  using enum OutputFolder::Leftover;
  OutputFolder first(temp_ / "out", false, share), second(temp_ / "out", false, share);
  first.keep();
  second.keep();
  for (const auto leftover : {refuse, resume})
    EXPECT_TRUE(
        fails_with([&] { OutputFolder third(temp_ / "out", true, leftover); }, {"/out", "another run"}));
  second.commit();
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, KeepsASecondRunAway) {
  OutputFolder first(temp_ / "out", false);
  write_file(first.partial() / "config.json", "first");
  for (const bool replace : {false, true})
    EXPECT_TRUE(fails_with([&] { OutputFolder second(temp_ / "out", replace); }, {"/out", "another run"}));
  first.commit();
  EXPECT_EQ(read_file(temp_ / "out" / "config.json"), "first");
}

TEST_F(OutputFolderTest, MakesWayAfterTheFirstRunHasGivenUp) {
  { OutputFolder first(temp_ / "out", false); }
  make(temp_ / "out", false);
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, DoesNotWriteThroughALinkInPlaceOfThePartialFolder) {
  fs::create_directory(temp_ / "elsewhere");
  write_file(temp_ / "elsewhere" / "mine", "text");
  fs::create_directory_symlink("elsewhere", temp_ / "out.upmoe-partial");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "out", true); }, {"/out.upmoe-partial"}));
  EXPECT_TRUE(fs::exists(temp_ / "elsewhere" / "mine"));
}

TEST_F(OutputFolderTest, TakesASlashAtTheEnd) {
  make((temp_ / "out").string() + "/", false);
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, RefusesWhatIsNoPlaceForAFolder) {
  EXPECT_TRUE(fails_with([] { OutputFolder output("", false); }, {"not a place"}));
  EXPECT_TRUE(fails_with([] { OutputFolder output("/", true); }, {"/"}));
  write_file(temp_ / "file", "text");
  EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "file" / "out", false); }, {"/file"}));
  EXPECT_EQ(temp_.names(), Names{"file"});
}

TEST_F(OutputFolderTest, IsCheckedWithoutMakingAnything) {
  const fs::path source = make_checkpoint("source");
  check_output(temp_ / "a" / "b" / "out", source, false);
  EXPECT_EQ(temp_.names(), Names{"source"});
  const fs::path other = make_checkpoint("other");
  EXPECT_TRUE(fails_with([&] { check_output(other, source, false); }, {"/other", "exists already"}));
  check_output(other, source, true);
  check_output(source / "inside", source, false);
}

TEST_F(OutputFolderTest, NeverReplacesItsSource) {
  const fs::path source = make_checkpoint("models/source");
  fs::create_directory_symlink("models/source", temp_ / "link");
  for (const fs::path& place : {source, source / "", source / "..", source.parent_path(), temp_ / "link",
                                source / "." / "..", temp_.path()})
    EXPECT_TRUE(fails_with([&] { check_output(place, source, true); }, {"its own source"})) << place;
}

}  // namespace
}  // namespace upmoe
