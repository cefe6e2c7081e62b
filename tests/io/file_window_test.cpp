#include "upmoe/io/file_window.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <memory>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace {
bool system_moves_pages = true;
}

// In front of the C library's: as Linux before 5.7 answers, when a test wants it.
extern "C" void* mremap(void* old, size_t old_size, size_t new_size, int flags, ...) noexcept {
  std::va_list list;
  va_start(list, flags);
  void* const to = (flags & MREMAP_FIXED) != 0 ? va_arg(list, void*) : nullptr;
  va_end(list);
  if (!system_moves_pages && (flags & MREMAP_DONTUNMAP) != 0) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(::syscall(SYS_mremap, old, old_size, new_size, flags, to));
}

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

// The disk of the temp folder, which takes direct I/O, and tmpfs, which (before Linux 6.6) does not. And a
// system that can't move pages.
struct Place {
  const char* disk;
  bool moves_pages;
};
class EveryDiskWindow : public testing::TestWithParam<Place> {
 protected:
  void SetUp() override {
    const char* const disk = GetParam().disk;
    if (!fs::is_directory(disk)) GTEST_SKIP() << disk << " is not there";
    folder_ = std::make_unique<TempFolder>(disk);
    system_moves_pages = GetParam().moves_pages;
  }
  void TearDown() override { system_moves_pages = true; }
  fs::path make(const std::string& name, const std::string& text) const {
    return write_file(*folder_ / name, text);
  }
  std::unique_ptr<TempFolder> folder_;
};
INSTANTIATE_TEST_SUITE_P(Disks, EveryDiskWindow,
                         testing::Values(Place{"/tmp", true}, Place{"/dev/shm", true}, Place{"/tmp", false}),
                         [](const auto& each) {
                           return std::string(each.index == 1 ? "Shm" : "Tmp") +
                                  (each.param.moves_pages ? "" : "WithoutMovingPages");
                         });

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

TEST_P(EveryDiskWindow, HasChunksOfTheSizeThatIsAskedFor) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::string text = text_of(10 * page + 77, 'a');
  const fs::path path = make("f", text);
  FileWindow window({path}, {identity(path)}, 3, 2 * page);
  for (std::uint64_t chunk = 0; chunk < num_chunks(text.size(), 2 * page); ++chunk) {
    window.load(0, chunk, chunk % 3);
    const std::size_t at = chunk * 2 * page, size = std::min(2 * page, text.size() - at);
    EXPECT_TRUE(view(window.bytes(0).subspan(at, size)) == text.substr(at, size)) << chunk;
    if (chunk >= 2) window.drop(0, chunk - 2);
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

TEST_P(EveryDiskWindow, LetsNothingBeTouchedThatIsNotLoaded) {
  const fs::path path = make("f", "text");
  FileWindow window({path}, {identity(path)}, 1);
  window.load(0, 0, 0);
  window.drop(0, 0);
  EXPECT_DEATH(static_cast<void>(*static_cast<const volatile std::byte*>(window.bytes(0).data())), "");
}

}  // namespace
}  // namespace upmoe
