#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <utility>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "upmoe/format/safetensors_writer.h"

namespace {
std::function<void()> before_the_next_lock, before_the_next_fsync;
}

// In front of the C library's: between opening a file and locking it a test lets something happen.
extern "C" int flock(int fd, int how) noexcept {
  if (const auto happen = std::exchange(before_the_next_lock, nullptr)) happen();
  return static_cast<int>(::syscall(SYS_flock, fd, how));
}
extern "C" int fsync(int fd) {
  if (const auto happen = std::exchange(before_the_next_fsync, nullptr)) happen();
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

namespace upmoe {
namespace {

using test::fails_with;

const std::vector<TensorInfo> kTensors = {{"a", Dtype::f32, {2}, 0, 8}, {"b", Dtype::u8, {1}, 8, 9}};
const std::vector<std::byte> kA(8, std::byte{1}), kB(1, std::byte{2});

SafetensorsWriter writer(const std::filesystem::path& path, bool replace = false) {
  return {path, kTensors, {}, replace};
}

TEST(SafetensorsWriter, WritesTensorsInAnyOrderAndLeavesNothingElse) {
  const test::TempFolder folder;
  const std::vector<std::pair<std::string, std::string>> metadata = {{"key", "a \"text\"\n"}};
  SafetensorsWriter out(folder / "x", kTensors, metadata, /*replace=*/false);
  out.put("b", kB);
  out.put("a", kA);
  EXPECT_EQ(folder.names(), std::vector<std::string>{"x.upmoe-partial"});
  out.commit();
  EXPECT_EQ(folder.names(), std::vector<std::string>{"x"});
  const SafetensorsFile file(folder / "x");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_TRUE(std::ranges::equal(file.data(file.tensors()[0]), kA));
  EXPECT_TRUE(std::ranges::equal(file.data(file.tensors()[1]), kB));
  EXPECT_NE(file.header().find(R"({"format":"pt","key":"a \"text\"\n"})"), std::string::npos);
}

TEST(SafetensorsWriter, LeavesNothingWhenItIsGivenUp) {
  const test::TempFolder folder;
  {
    SafetensorsWriter out = writer(folder / "x");
    out.put("a", kA);
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(SafetensorsWriter, MakesTheFoldersAroundTheFile) {
  const test::TempFolder folder;
  writer(folder / "a" / "b" / "x");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a" / "b"));
}

TEST(SafetensorsWriter, RefusesAFileThatIsThereUnlessItIsToBeReplaced) {
  const test::TempFolder folder;
  test::write_file(folder / "x", "old");
  std::filesystem::create_directory(folder / "folder");
  EXPECT_TRUE(fails_with([&] { writer(folder / "x"); }, {"is there already; --replace replaces it"}));
  EXPECT_TRUE(fails_with([&] { writer(folder / "folder", true); }, {"is no file that could be replaced"}));
  SafetensorsWriter out = writer(folder / "x", true);
  out.put("a", kA), out.put("b", kB);
  EXPECT_EQ(test::read_file(folder / "x"), "old");
  out.commit();
  EXPECT_NE(test::read_file(folder / "x"), "old");
}

TEST(SafetensorsWriter, DoesNotTouchAFileThatAnotherRunHasFinishedJustNow) {
  for (const bool replace : {false, true}) {
    const test::TempFolder folder;
    {
      SafetensorsWriter first = writer(folder / "x");
      first.put("a", kA), first.put("b", kB);
      before_the_next_lock = [&] { first.commit(); };
      if (replace)
        writer(folder / "x", true);
      else
        EXPECT_TRUE(fails_with([&] { writer(folder / "x"); }, {"is there already"}));
    }
    EXPECT_EQ(folder.names(), std::vector<std::string>{"x"});
    EXPECT_EQ(SafetensorsFile(folder / "x").tensors().size(), 2u);
  }
}

TEST(SafetensorsWriter, DoesNotReplaceAFileThatAppearsInTheLastMoment) {
  const test::TempFolder folder;
  {
    SafetensorsWriter out = writer(folder / "x");
    out.put("a", kA), out.put("b", kB);
    before_the_next_fsync = [&] { test::write_file(folder / "x", "foreign"); };
    EXPECT_TRUE(
        fails_with([&] { out.commit(); }, {"x: cannot give the finished file its name: File exists"}));
  }
  EXPECT_EQ(test::read_file(folder / "x"), "foreign");
  EXPECT_EQ(folder.names(), std::vector<std::string>{"x"});
}

TEST(SafetensorsWriter, RefusesASecondRunAndKeepsTheFileOfTheFirst) {
  const test::TempFolder folder;
  SafetensorsWriter first = writer(folder / "x");
  EXPECT_TRUE(fails_with([&] { writer(folder / "x"); }, {"another run is writing it"}));
  first.put("a", kA), first.put("b", kB);
  first.commit();
  EXPECT_EQ(folder.names(), std::vector<std::string>{"x"});
}

TEST(SafetensorsWriter, LeavesPartialFilesOfOthersAsTheyAre) {
  const test::TempFolder folder;
  test::write_file(folder / "x.upmoe-partial", "foreign");
  {
    SafetensorsWriter out = writer(folder / "x");
    out.put("a", kA), out.put("b", kB);
    EXPECT_EQ(folder.names(), (std::vector<std::string>{"x.2.upmoe-partial", "x.upmoe-partial"}));
    out.commit();
  }
  { const SafetensorsWriter given_up = writer(folder / "x", true); }
  EXPECT_EQ(SafetensorsFile(folder / "x").tensors().size(), 2u);
  EXPECT_EQ(test::read_file(folder / "x.upmoe-partial"), "foreign");
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"x", "x.upmoe-partial"}));
}

TEST(SafetensorsWriter, RefusesATensorThatIsMissingStrangeOrOfAnotherSize) {
  const test::TempFolder folder;
  SafetensorsWriter out = writer(folder / "x");
  EXPECT_TRUE(fails_with([&] { out.put("c", kA); }, {"'c' is not expected"}));
  EXPECT_TRUE(fails_with([&] { out.put("b", kA); }, {"'b' has 8 bytes, expected 1"}));
  out.put("a", kA);
  EXPECT_TRUE(fails_with([&] { out.put("a", kA); }, {"'a' is not expected, or is written twice"}));
  EXPECT_TRUE(fails_with([&] { out.commit(); }, {"'b' was never written"}));
}

}  // namespace
}  // namespace upmoe
