#include "upmoe/checkpoint/output_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "upmoe/base/hash.h"

namespace {
std::function<void()> before_the_next_removal;
std::string gone_before_it_is_opened;  // a file's name
}  // namespace

// In front of the C library's: before a file of the replaced folder goes, a test lets something happen.
extern "C" int unlinkat(int folder, const char* name, int how) noexcept {
  if (const auto happen = std::exchange(before_the_next_removal, nullptr)) happen();
  return static_cast<int>(::syscall(SYS_unlinkat, folder, name, how));
}

extern "C" int openat(int folder, const char* name, int how, ...) {
  std::va_list more;
  va_start(more, how);
  const mode_t mode = (how & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  if (name == gone_before_it_is_opened) ::syscall(SYS_unlinkat, folder, name, 0);
  return static_cast<int>(::syscall(SYS_openat, folder, name, how, mode));
}

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
    write_file(output.partial() / "additional_chat_templates" / "tool.jinja", "text");
    write_file(output.partial() / "upmoe-journal-0-of-2", "upmoe-journal 1 ");
    write_file(output.partial() / "model-00001-of-00002.safetensors", "text");
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
  write_file(place / "model-00001-of-00002.safetensors", "old");
  write_file(place / "additional_chat_templates" / "tool.jinja", "old");
  for (const char* name : {"upmoe.json", "README.md", "LICENSE.txt", "tokenizer.json", "chat_template.jinja"})
    write_file(place / name, "old");
  make(place, true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_EQ(read_file(place / "config.json"), "new");
  EXPECT_FALSE(fs::exists(place / "model-00001-of-00002.safetensors"));
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

TEST_F(OutputFolderTest, NeverReplacesAProjectThatHoldsAFileOfOurName) {
  write_file(temp_ / "out" / "upmoe.json", "{}");
  EXPECT_TRUE(
      fails_with([&] { OutputFolder output(temp_ / "out", true); }, {"/out", "not a checkpoint folder"}));
  EXPECT_TRUE(fs::exists(temp_ / "out" / "upmoe.json"));
}

// What a trainer, git, a browser's download and a person put beside a model.
TEST_F(OutputFolderTest, NeverReplacesACheckpointWithSomethingElseInIt) {
  std::string levels = "a";  // more than the stack or the descriptors of a process would bear
  for (int i = 0; i < 20; ++i) levels += "/a";
  for (const std::string& name : Names{"optimizer.pt",
                                       "trainer_state.json",
                                       "training_args.bin",
                                       "checkpoint-500/optimizer.pt",
                                       ".git/HEAD",
                                       "thesis.tex",
                                       "model.safetensors.bak",
                                       "model-a-of-2.safetensors",
                                       "adapter_model.safetensors",
                                       "upmoe-journal",
                                       "additional_chat_templates/notes.txt",
                                       "tokenizer.json/mine",
                                       "LICENSE-chapter of my thesis.tex",
                                       "NOTICE of termination.pdf",
                                       "LICENSE.docx",
                                       ".cache/mine",
                                       ".cache/huggingface/mine",
                                       ".cache/huggingface/download/mine.txt",
                                       ".cache/pip/a.metadata",
                                       ".cache/huggingface/download/" + levels + "/a.metadata",
                                       "pytorch_model.bin.bak",
                                       "consolidated.00.pth"}) {
    const fs::path place = make_checkpoint("out");
    write_file(place / name, "mine");
    EXPECT_TRUE(fails_with([&] { make(place, true); },
                           {"/out: holds", "'" + name.substr(0, name.find('/')) + "'", "--replace"}))
        << name;
    EXPECT_EQ(read_file(place / name), "mine");
    EXPECT_EQ(temp_.names(), Names{"out"}) << name;
    fs::remove_all(place);
  }
}

// While the old folder is removed it lies under the name of a partial one.
TEST_F(OutputFolderTest, KeepsOthersFromWorkingInTheFolderThatItReplaces) {
  const fs::path place = make_checkpoint("out");
  int tried = 0;
  before_the_next_removal = [&] {
    for (const OutputFolder::Leftover leftover :
         {OutputFolder::Leftover::refuse, OutputFolder::Leftover::resume, OutputFolder::Leftover::share}) {
      EXPECT_TRUE(fails_with([&] { OutputFolder(place, true, leftover); },
                             {"/out: another run is writing this output"}));
      ++tried;
    }
  };
  OutputFolder output(place, true);
  write_file(output.partial() / "config.json", "new");
  write_file(output.partial() / "model.safetensors", "");
  output.commit();
  EXPECT_EQ(tried, 3);
  EXPECT_EQ(read_file(place / "config.json"), "new");
  EXPECT_EQ(temp_.names(), Names{"out"});
}

// A run that is killed while it removes the old output: of transformers, with more than a run of ours writes.
TEST_F(OutputFolderTest, ClearsAnOldOutputThatAKilledRunWasRemoving) {
  const fs::path partial = make_checkpoint("out.upmoe-partial");
  write_file(partial / ".gitattributes", "text");
  EXPECT_TRUE(fails_with([&] { OutputFolder(temp_ / "out", true); }, {"which no run of upmoe has written"}));
  write_file(partial / "upmoe-replaced", "");
  for (const OutputFolder::Leftover leftover :
       {OutputFolder::Leftover::resume, OutputFolder::Leftover::share})
    EXPECT_TRUE(fails_with([&] { OutputFolder(temp_ / "out", false, leftover); },
                           {"/out.upmoe-partial: is an old output", "--replace"}));
  EXPECT_TRUE(fs::exists(partial / "model.safetensors"));
  make(temp_ / "out", true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_FALSE(fs::exists(temp_ / "out" / "upmoe-replaced"));
}

TEST_F(OutputFolderTest, MarksTheOldOutputAsLongAsItIsRemoved) {
  const fs::path place = make_checkpoint("out");
  bool marked = false;
  before_the_next_removal = [&] { marked = fs::exists(temp_ / "out.upmoe-partial" / "upmoe-replaced"); };
  make(place, true);
  EXPECT_TRUE(marked);
  EXPECT_EQ(temp_.names(), Names{"out"});
}

// A whole output under the name of an unfinished one has no journal, and is nothing to continue or to empty.
TEST_F(OutputFolderTest, NeverTakesAWholeOutputForWhatAKilledRunHasLeft) {
  const fs::path whole = make_checkpoint("out.upmoe-partial");
  for (const char* name : {"upmoe.json", "upmoe-recipe.toml"}) write_file(whole / name, "{}");
  for (const bool replace : {false, true})
    EXPECT_TRUE(fails_with([&] { OutputFolder(temp_ / "out", replace, OutputFolder::Leftover::resume); },
                           {"/out.upmoe-partial: holds no journal"}));
  EXPECT_TRUE(fs::exists(whole / "upmoe.json"));
  for (const char* name : {"new.upmoe-partial", "new.upmoe-old"})
    EXPECT_TRUE(fails_with([&] { OutputFolder(temp_ / name, false); }, {name, "unfinished outputs"}));
}

TEST_F(OutputFolderTest, ReplacesAnEmptyFolder) {
  fs::create_directory(temp_ / "out");
  make(temp_ / "out", true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_EQ(read_file(temp_ / "out" / "config.json"), "new");
}

// Killed in between, what is left is still known: by its journal, or by the mark of an old output.
TEST_F(OutputFolderTest, RemovesWhatTellsWhoseItIsAfterAllElse) {
  const fs::path place = make_checkpoint("out"), partial = temp_ / "out.upmoe-partial";
  for (const char* name : {"upmoe.json", "upmoe-recipe.toml"}) write_file(place / name, "{}");
  const auto always_has = [&](const std::string& name, auto&& run) {
    int seen = 0;
    const std::function<void()> look = [&] {
      if (fs::exists(partial / "upmoe.json") || fs::exists(partial / "upmoe-recipe.toml")) {
        EXPECT_TRUE(fs::exists(partial / name));
        ++seen;
      }
      before_the_next_removal = look;
    };
    before_the_next_removal = look;
    run();
    before_the_next_removal = nullptr;
    EXPECT_GE(seen, 2);
  };
  always_has("upmoe-replaced", [&] { make(place, true); });
  for (const char* name : {"upmoe.json", "upmoe-recipe.toml"}) write_file(partial / name, "{}");
  write_file(partial / "upmoe-journal", "upmoe-journal 1 ");
  fs::remove_all(place);
  always_has("upmoe-journal", [&] { OutputFolder(place, true); });
}

TEST_F(OutputFolderTest, ReplacesALicenceOfAnyNameThatTheRecordKnows) {
  const auto record = [&](const std::string& text) {
    write_file(temp_ / "out" / "LICENSE.llama3", "the licence");
    write_file(temp_ / "out" / "upmoe.json", text);
  };
  const fs::path place = make_checkpoint("out");
  const std::string known =
      R"({"output": {"files": {"LICENSE.llama3": ")" + hex(xxh3("the licence")) + "\"}}}";
  for (const std::string& text :
       {std::string(), std::string("{}"), std::string(R"({"output": {"files": {"LICENSE.llama3": "0"}}})")}) {
    record(text);
    EXPECT_TRUE(fails_with([&] { make(place, true); }, {"/out: holds 'LICENSE.llama3'"})) << text;
  }
  record(known);
  make(place, true);
  EXPECT_FALSE(fs::exists(place / "LICENSE.llama3"));
}

TEST_F(OutputFolderTest, GoesOnBesideALicenceOfAnyName) {
  const fs::path partial = temp_ / "out.upmoe-partial";
  write_file(partial / "upmoe-journal", "upmoe-journal 1 ");
  write_file(partial / "LICENSE.llama3", "the licence");
  OutputFolder(temp_ / "out", false, OutputFolder::Leftover::resume).keep();
  EXPECT_TRUE(fs::exists(partial / "LICENSE.llama3"));
  OutputFolder(temp_ / "out", true);
  EXPECT_EQ(temp_.names(), Names{});
}

// What `hf download --local-dir` and save_pretrained leave.
TEST_F(OutputFolderTest, ReplacesWhatIsBesideACheckpointOfTheHub) {
  const fs::path place = make_checkpoint("out");
  for (const std::string name :
       {".gitattributes", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json", "consolidated.safetensors", "LICENSE-MIT.txt", "USE_POLICY.md",
        "NOTICE", "LICENSE-2.0", ".cache/huggingface/.gitignore", ".cache/huggingface/CACHEDIR.TAG",
        ".cache/huggingface/download/config.json.metadata", ".cache/huggingface/download/config.json.lock",
        ".cache/huggingface/download/additional_chat_templates/rag.jinja.metadata"})
    write_file(place / name, "text");
  make(place, true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_FALSE(fs::exists(place / ".cache"));
}

TEST_F(OutputFolderTest, ReplacesACheckpointWhoseRunWasKilledBeforeItsJournalWasGone) {
  const fs::path place = make_checkpoint("out");
  write_file(place / "upmoe-journal", "upmoe-journal 1 ");
  make(place, true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_FALSE(fs::exists(place / "upmoe-journal"));
}

TEST_F(OutputFolderTest, ReplacesLinksAndNotWhatTheyLeadTo) {  // a snapshot in a cache
  write_file(temp_ / "blob", "mine");
  fs::create_directory(temp_ / "out");
  for (const char* name : {"config.json", "model.safetensors"})
    fs::create_symlink("../blob", temp_ / "out" / name);
  make(temp_ / "out", true);
  EXPECT_EQ(read_file(temp_ / "blob"), "mine");
  EXPECT_EQ(read_file(temp_ / "out" / "config.json"), "new");
}

TEST_F(OutputFolderTest, GivesBackWhatWasPutThereInsteadOfTheCheckpoint) {
  const fs::path place = make_checkpoint("out");
  EXPECT_TRUE(fails_with(
      [&] {
        OutputFolder output(place, true);
        write_file(output.partial() / "config.json", "new");
        fs::rename(place, temp_ / "aside");
        write_file(place / "letters" / "mother.txt", "text");
        output.commit();
      },
      {"/out", "not a checkpoint folder"}));
  EXPECT_TRUE(fs::exists(place / "letters" / "mother.txt"));
  EXPECT_EQ(temp_.names(), (Names{"aside", "out"}));
}

TEST_F(OutputFolderTest, RemovesNothingForeignWhenItIsNotCommitted) {
  {
    OutputFolder output(temp_ / "out", false);
    write_file(output.partial() / "config.json", "new");
    write_file(output.partial() / "letters" / "mother.txt", "text");
  }
  EXPECT_TRUE(fs::exists(temp_ / "out.upmoe-partial" / "letters" / "mother.txt"));
  EXPECT_FALSE(fs::exists(temp_ / "out.upmoe-partial" / "config.json"));
}

TEST_F(OutputFolderTest, RemovesNothingOfAFolderThatTookTheNameOfItsPartialOne) {
  {
    OutputFolder output(temp_ / "out", false);
    fs::rename(output.partial(), temp_ / "elsewhere");
    write_file(output.partial() / "config.json", "mine");
  }
  EXPECT_EQ(read_file(temp_ / "out.upmoe-partial" / "config.json"), "mine");
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
  write_file(temp_ / "out.upmoe-partial" / "upmoe-journal", "upmoe-journal 1 ");
  write_file(temp_ / "out.upmoe-partial" / "model.safetensors", "text");
  make(temp_ / "out", true);
  EXPECT_EQ(temp_.names(), Names{"out"});
  EXPECT_FALSE(fs::exists(temp_ / "out" / "model.safetensors"));
}

TEST_F(OutputFolderTest, AJournalThatIsGoneBeforeItIsOpenedIsNotForeign) {
  write_file(temp_ / "out.upmoe-partial" / "upmoe-journal", "upmoe-journal 1 ");
  gone_before_it_is_opened = "upmoe-journal";
  const OutputFolder output(temp_ / "out", true);
  gone_before_it_is_opened.clear();
  EXPECT_TRUE(fs::is_empty(output.partial()));
}

// Of any of these nothing is deleted, whatever was asked for.
class ForeignPartial : public OutputFolderTest, public testing::WithParamInterface<OutputFolder::Leftover> {
 protected:
  void expect_refused(std::initializer_list<std::string_view> says) const {
    EXPECT_TRUE(fails_with([&] { OutputFolder output(temp_ / "out", true, GetParam()); }, says));
    EXPECT_EQ(temp_.names(), Names{"out.upmoe-partial"});
  }
  fs::path partial() const { return temp_ / "out.upmoe-partial"; }
};

TEST_P(ForeignPartial, WithAnotherFileIsLeftAlone) {
  write_file(partial() / "upmoe-journal", "upmoe-journal 1 ");
  write_file(partial() / "thesis.tex", "mine");
  expect_refused({"/out.upmoe-partial", "'thesis.tex'"});
  EXPECT_EQ(read_file(partial() / "thesis.tex"), "mine");
}

TEST_P(ForeignPartial, WithoutAJournalIsLeftAlone) {
  write_file(partial() / "model.safetensors", "mine");
  expect_refused({"/out.upmoe-partial", "journal"});
  EXPECT_EQ(read_file(partial() / "model.safetensors"), "mine");
}

TEST_P(ForeignPartial, WithAFileThatIsAlsoElsewhereIsLeftAlone) {
  const TempFolder other;
  write_file(other / "mine", "mine");
  write_file(partial() / "upmoe-journal", "upmoe-journal 1 ");
  fs::create_hard_link(other / "mine", partial() / "model.safetensors");
  expect_refused({"/out.upmoe-partial", "another name", "'model.safetensors'"});
}

TEST_P(ForeignPartial, WithADiaryInPlaceOfTheJournalIsLeftAlone) {
  write_file(partial() / "upmoe-journal", "dear diary");
  expect_refused({"/out.upmoe-partial", "'upmoe-journal'"});
  EXPECT_EQ(read_file(partial() / "upmoe-journal"), "dear diary");
}

TEST_P(ForeignPartial, WithALinkIsLeftAlone) {
  write_file(partial() / "upmoe-journal", "upmoe-journal 1 ");
  fs::create_symlink("/etc/hostname", partial() / "model.safetensors");
  expect_refused({"/out.upmoe-partial", "link", "'model.safetensors'"});
}

using enum OutputFolder::Leftover;
INSTANTIATE_TEST_SUITE_P(OutputFolder, ForeignPartial, testing::Values(refuse, resume, share));

TEST_F(OutputFolderTest, GoesOnInWhatAnEarlierRunHasLeft) {
  write_file(temp_ / "out.upmoe-partial" / "upmoe-journal", "upmoe-jour");
  OutputFolder output(temp_ / "out", false, OutputFolder::Leftover::resume);
  EXPECT_EQ(read_file(output.partial() / "upmoe-journal"), "upmoe-jour");
  output.commit();
  EXPECT_EQ(temp_.names(), Names{"out"});
}

TEST_F(OutputFolderTest, LeavesThePartialFolderWhenItIsToKeepIt) {
  {
    OutputFolder output(temp_ / "a" / "out", false, OutputFolder::Leftover::resume);
    write_file(output.partial() / "upmoe-journal", "upmoe-jour");
    output.keep();
  }
  EXPECT_EQ(read_file(temp_ / "a" / "out.upmoe-partial" / "upmoe-journal"), "upmoe-jour");
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
  EXPECT_TRUE(fails_with([] { OutputFolder output("", false); }, {"the path of the output folder is empty"}));
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
}

TEST_F(OutputFolderTest, IsNotMadeInItsSource) {
  const fs::path source = make_checkpoint("source");
  EXPECT_TRUE(fails_with([&] { check_output(source / "inside", source, false); }, {"its own source"}));
}

TEST_F(OutputFolderTest, DoesNotTakeItsSourceForItsPartialFolder) {
  const fs::path source = make_checkpoint("out.upmoe-partial");
  EXPECT_TRUE(fails_with([&] { check_output(temp_ / "out", source, true); }, {"its own source"}));
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
