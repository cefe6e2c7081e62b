#include "upmoe/io/file_window.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::fails_with;
using test::TempFolder;
using test::write_file;

std::string text_of(std::uint64_t bytes, char seed) {
  std::string out(bytes, '\0');
  for (std::uint64_t i = 0; i < bytes; ++i) out[i] = static_cast<char>(seed + i * 7 + (i >> 12) * 31);
  return out;
}
FileIdentity identity(const fs::path& path) { return identity_of(open_regular_file(path), path); }
std::string_view view(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The disk of the temp folder, which takes direct I/O, and tmpfs, which (before Linux 6.6) does not.
class EveryDiskWindow : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!fs::is_directory(GetParam())) GTEST_SKIP() << GetParam() << " is not there";
    folder_ = std::make_unique<TempFolder>(GetParam());
  }
  fs::path make(const std::string& name, const std::string& text) const {
    return write_file(*folder_ / name, text);
  }
  std::unique_ptr<TempFolder> folder_;
};
INSTANTIATE_TEST_SUITE_P(Disks, EveryDiskWindow, testing::Values("/tmp", "/dev/shm"),
                         [](const auto& each) { return each.index == 0 ? "Tmp" : "Shm"; });

TEST_P(EveryDiskWindow, HoldsTheChunksThatAreLoadedSideBySide) {
  for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{4096}, std::uint64_t{kBlockBytes - 1},
                                    std::uint64_t{kBlockBytes}, std::uint64_t{2 * kBlockBytes + 4097}}) {
    const std::string text = text_of(bytes, 'a');
    const fs::path path = make("f", text);
    FileWindow window({path}, {identity(path)}, 3);
    for (std::uint64_t chunk = 0; chunk < num_chunks(bytes); ++chunk) window.load(0, chunk, 2 - chunk);
    EXPECT_TRUE(view(window.bytes(0)) == text) << bytes << " bytes";
  }
}

TEST_P(EveryDiskWindow, UsesASlotAgainForAnotherFile) {
  const std::string one = text_of(kBlockBytes + 5, 'a'), other = text_of(100, 'q');
  const fs::path a = make("a", one), b = make("b", other);
  FileWindow window({a, b}, {identity(a), identity(b)}, 1);
  window.load(0, 1, 0);
  EXPECT_EQ(view(window.bytes(0).subspan(kBlockBytes)), one.substr(kBlockBytes));
  window.drop(0, 1);
  window.load(1, 0, 0);
  EXPECT_EQ(view(window.bytes(1)), other);
  window.drop(1, 0);
  window.load(0, 0, 0);
  EXPECT_TRUE(view(window.bytes(0).first(kBlockBytes)) == one.substr(0, kBlockBytes));
}

TEST_P(EveryDiskWindow, ReadsAFewBytesWithoutASlot) {
  const std::string text = text_of(kBlockBytes + 5000, 'a');
  const fs::path path = make("f", text);
  const FileWindow window({path}, {identity(path)}, 1);
  std::string got(4999, '\0');
  window.read(0, kBlockBytes - 17, std::as_writable_bytes(std::span(got)));
  EXPECT_EQ(got, text.substr(kBlockBytes - 17, 4999));
}

TEST_P(EveryDiskWindow, SaysThatAFileBecameShorterWhileItIsRead) {
  const fs::path path = make("f", text_of(2 * kBlockBytes, 'a'));
  FileWindow window({path}, {identity(path)}, 2);
  fs::resize_file(path, kBlockBytes + 100);
  window.load(0, 0, 0);
  EXPECT_TRUE(fails_with([&] { window.load(0, 1, 1); },
                         {"/f", "ends at byte 4194404", "expected 8388608", "became shorter"}));
  EXPECT_TRUE(fails_with([&] { window.require_unchanged(); }, {"/f", "was changed while it was read"}));
}

TEST_P(EveryDiskWindow, RefusesAFileThatIsNoLongerWhatItWas) {
  const fs::path path = make("f", "text");
  const FileIdentity before = identity(path);
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
  EXPECT_TRUE(fails_with([&] { FileWindow({path}, {before}, 1); }, {"/f", "has changed"}));
  fs::remove(path);
  EXPECT_TRUE(fails_with([&] { FileWindow({path}, {before}, 1); }, {"/f", "cannot open"}));
}

TEST_P(EveryDiskWindow, DoesNotMindThatTheNameIsTakenByAnotherFile) {
  const fs::path path = make("f", "old");
  FileWindow window({path}, {identity(path)}, 1);
  fs::rename(make("new", "new"), path);
  window.load(0, 0, 0);
  EXPECT_EQ(view(window.bytes(0)), "old");
  window.require_unchanged();
}

TEST(FileWindow, LetsNothingBeTouchedThatIsNotLoaded) {
  const TempFolder folder;
  const fs::path path = write_file(folder / "f", "text");
  FileWindow window({path}, {identity(path)}, 1);
  window.load(0, 0, 0);
  window.drop(0, 0);
  EXPECT_DEATH(static_cast<void>(*static_cast<const volatile std::byte*>(window.bytes(0).data())), "");
}

}  // namespace
}  // namespace upmoe
