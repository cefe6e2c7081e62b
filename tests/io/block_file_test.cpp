#include "upmoe/io/block_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "upmoe/io/block_writer.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::fails_with;
using test::read_file;
using test::TempFolder;

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Block = std::unique_ptr<std::byte, Free>;
Block aligned_block() {
  return Block(static_cast<std::byte*>(std::aligned_alloc(kBlockAlignment, kBlockBytes)));
}

// Byte i of the test's files: another one at each place that a mixed-up block or page would take it from.
std::byte byte_at(std::uint64_t i) {
  return static_cast<std::byte>(i * 7 + (i >> 12) * 31 + (i >> 22) * 101);
}
std::string expected(std::uint64_t bytes) {
  std::string text(bytes, '\0');
  for (std::uint64_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(byte_at(i));
  return text;
}
std::uint64_t num_blocks(std::uint64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes; }
// Fills a block and says how much of it belongs to the file; the rest is rubbish, which must not be seen.
std::size_t fill_block(std::span<std::byte> block, std::uint64_t at, std::uint64_t bytes) {
  const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), bytes - at));
  for (std::size_t i = 0; i < size; ++i) block[i] = byte_at(at + i);
  std::memset(block.data() + size, 0xEE, block.size() - size);
  return size;
}

// The disk of the temp folder, which takes direct I/O, and tmpfs, which (before Linux 6.6) does not.
class EveryDisk : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!fs::is_directory(GetParam())) GTEST_SKIP() << GetParam() << " is not there";
    folder_ = std::make_unique<TempFolder>(GetParam());
  }
  fs::path place() const { return *folder_ / "model.safetensors"; }
  std::unique_ptr<TempFolder> folder_;
};
INSTANTIATE_TEST_SUITE_P(Disks, EveryDisk, testing::Values("/tmp", "/dev/shm"),
                         [](const auto& each) { return each.index == 0 ? "Tmp" : "Shm"; });

TEST_P(EveryDisk, HoldsWhatWasWrittenForAnySize) {
  const Block memory = aligned_block();
  const std::span<std::byte> block(memory.get(), kBlockBytes);
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{511}, std::uint64_t{4095}, std::uint64_t{4096},
        std::uint64_t{4097}, std::uint64_t{kBlockBytes - 1}, std::uint64_t{kBlockBytes},
        std::uint64_t{kBlockBytes + 1}, std::uint64_t{3 * kBlockBytes + 12345}}) {
    BlockFile file(place(), bytes);
    for (std::uint64_t at = 0; at < bytes; at += kBlockBytes)
      file.write(at, block.first(fill_block(block, at, bytes)));
    file.finish();
    ASSERT_EQ(fs::file_size(place()), bytes);
    ASSERT_TRUE(read_file(place()) == expected(bytes)) << bytes << " bytes";
    fs::remove(place());
  }
}

TEST_P(EveryDisk, TakesBlocksInAnyOrder) {
  const Block memory = aligned_block();
  const std::span<std::byte> block(memory.get(), kBlockBytes);
  const std::uint64_t bytes = 2 * kBlockBytes + 77;
  BlockFile file(place(), bytes);
  for (const std::uint64_t at : {2 * kBlockBytes, std::size_t{0}, kBlockBytes})
    file.write(at, block.first(fill_block(block, at, bytes)));
  file.finish();
  EXPECT_TRUE(read_file(place()) == expected(bytes));
}

TEST_P(EveryDisk, NeverReplacesAFile) {
  test::write_file(place(), "old");
  EXPECT_TRUE(
      fails_with([&] { BlockFile file(place(), 10); }, {"model.safetensors", "cannot create", "exists"}));
  EXPECT_EQ(read_file(place()), "old");
}

TEST_P(EveryDisk, SaysThatItIsTooSmallWithoutBeingFilled) {
  struct statvfs disk {};
  ASSERT_EQ(::statvfs(GetParam(), &disk), 0);
  const std::uint64_t more = (disk.f_blocks + 1'000'000) * disk.f_frsize;
  EXPECT_TRUE(fails_with([&] { BlockFile file(place(), more); },
                         {"model.safetensors", "cannot reserve " + human_bytes(more), "are free"}));
  struct stat file {};
  ASSERT_EQ(::stat(place().c_str(), &file), 0);
  EXPECT_EQ(file.st_blocks, 0);
}

TEST_P(EveryDisk, IsWrittenByManyThreads) {
  const std::uint64_t bytes = 37 * kBlockBytes + 1001;
  BlockFile file(place(), bytes);
  BlockWriter writer(/*num_buffers=*/3, /*num_threads=*/2);
  std::vector<std::jthread> workers;
  std::atomic<std::uint64_t> next = 0;
  for (int t = 0; t < 4; ++t)
    workers.emplace_back([&] {
      for (std::uint64_t b = next++; b < num_blocks(bytes); b = next++) {
        const std::span<std::byte> buffer = writer.acquire();
        const std::size_t size = fill_block(buffer, b * kBlockBytes, bytes);
        writer.submit(buffer, size, file, b * kBlockBytes);
      }
    });
  workers.clear();  // joins
  writer.drain();
  file.finish();
  EXPECT_TRUE(read_file(place()) == expected(bytes));
}

TEST_P(EveryDisk, SaysThatItsFileIsGoneOrAnother) {
  for (const bool another : {false, true}) {
    BlockFile file(place(), 10);
    fs::remove(place());
    if (another) test::write_file(place(), "0123456789");
    EXPECT_TRUE(fails_with([&] { file.require_in_place(); },
                           {"model.safetensors", another ? "replaced" : "deleted"}));
    fs::remove(place());
  }
}

// As ranks do that start together.
TEST(Reflinks, AreTriedByManyAtOnce) {
  const TempFolder folder;
  std::vector<std::jthread> ranks;
  for (int r = 0; r < 8; ++r)
    ranks.emplace_back([&] {
      for (int i = 0; i < 200; ++i) EXPECT_NO_THROW(why_no_reflinks(folder.path()));
    });
  ranks.clear();  // joins
  EXPECT_TRUE(folder.names().empty());
}

TEST(BlockFile, NamesAFolderThatIsNotThere) {
  const TempFolder folder;
  EXPECT_TRUE(
      fails_with([&] { BlockFile file(folder / "a" / "f", 10); }, {"/a/f", "cannot create", "No such file"}));
}

TEST(BlockWriter, GivesAlignedBuffersOfOneBlock) {
  BlockWriter writer(4, 1);
  std::vector<std::span<std::byte>> all;
  for (int i = 0; i < 4; ++i) all.push_back(writer.acquire());
  for (const auto& buffer : all) {
    EXPECT_EQ(buffer.size(), kBlockBytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kBlockAlignment, 0u);
    EXPECT_EQ(std::ranges::count(all, buffer.data(), [](const auto& b) { return b.data(); }), 1);
  }
}

TEST(BlockWriter, HandsOutABufferThatWasGivenBack) {
  BlockWriter writer(1, 1);
  std::span<std::byte> buffer = writer.acquire();
  std::jthread other([&writer, buffer] { writer.give_back(buffer); });
  EXPECT_EQ(writer.acquire().data(), buffer.data());  // waits for it
}

TEST(BlockWriter, DrainsAtOnceWhenThereIsNothingToDo) {
  BlockWriter writer(1, 2);
  writer.drain();
  writer.drain();
}

// Writing past the limit on file sizes fails as a full disk does, in the middle of the run.
class FullDisk : public testing::Test {
 protected:
  static constexpr std::uint64_t kLimit = 2 * kBlockBytes;
  FullDisk() {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
    file_ = std::make_unique<BlockFile>(folder_ / "model.safetensors", kLimit);
    was_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{kLimit, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  }
  ~FullDisk() override {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, was_);
  }
  TempFolder folder_;
  std::unique_ptr<BlockFile> file_;
  rlimit before_{};
  void (*was_)(int) = nullptr;
};

TEST_F(FullDisk, IsAnErrorThatNamesFileAndPlace) {
  const Block memory = aligned_block();
  EXPECT_TRUE(fails_with(
      [&] {
        file_->write(kLimit, {memory.get(), kBlockBytes});
      },
      {"model.safetensors", "cannot write at byte 8388608"}));
}

TEST_F(FullDisk, ReachesWhoeverWaits) {
  BlockWriter writer(2, 2);
  writer.submit(writer.acquire(), kBlockBytes, *file_, kLimit);
  EXPECT_TRUE(fails_with([&] { writer.drain(); }, {"model.safetensors", "cannot write"}));
  EXPECT_TRUE(fails_with([&] { writer.acquire(); }, {"model.safetensors", "cannot write"}));
}

TEST_F(FullDisk, StopsWorkersThatGoOnAndOn) {
  BlockWriter writer(2, 1);
  const auto work = [&] {
    for (std::uint64_t b = 0; b < 1000; ++b) writer.submit(writer.acquire(), kBlockBytes, *file_, kLimit);
  };
  EXPECT_TRUE(fails_with(work, {"cannot write"}));
}

TEST_F(FullDisk, LeavesTheWriterToBeDestroyedWithWorkInIt) {
  BlockWriter writer(8, 1);
  std::vector<std::span<std::byte>> buffers;
  for (int i = 0; i < 8; ++i) buffers.push_back(writer.acquire());
  for (const auto& buffer : buffers) writer.submit(buffer, kBlockBytes, *file_, kLimit);
}

// In a process that may have two threads: the second writer can't be started.
[[noreturn]] void make_a_writer_with_too_many_threads() {
  ::alarm(20);  // a hang is death, too
  const rlimit two{2, 2};
  if (::setgid(54321) != 0 || ::setuid(54321) != 0 || ::setrlimit(RLIMIT_NPROC, &two) != 0) ::_exit(2);
  try {
    BlockWriter writer(1, 3);
  } catch (const Error& error) {
    ::_exit(std::string_view(error.what()).starts_with("cannot start a thread: ") ? 0 : 3);
  }
  ::_exit(1);
}

TEST(BlockWriter, FailsWithoutHangingWhenAThreadCannotBeStarted) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become a user with a limit on threads";
  EXPECT_EXIT(make_a_writer_with_too_many_threads(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace upmoe
