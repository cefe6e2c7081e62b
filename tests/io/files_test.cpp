#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/io/mapped_file.h"

namespace upmoe {
namespace {

using test::fails_with;
using test::read_file;
using test::TempFolder;
using test::write_file;

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(FileDescriptor, IsClosedOnceAndMoves) {
  int both[2];
  ASSERT_EQ(::pipe(both), 0);
  const FileDescriptor in(both[0]);
  {
    FileDescriptor out(both[1]);
    FileDescriptor moved = std::move(out);
    EXPECT_EQ(moved.get(), both[1]);
    FileDescriptor none(-1);
    none = std::move(moved);
    EXPECT_EQ(none.get(), both[1]);
  }
  char byte = 0;
  EXPECT_EQ(::read(in.get(), &byte, 1), 0);  // no writer is left
}

TEST(MappedFile, ShowsTheBytes) {
  const TempFolder folder;
  const MappedFile file(write_file(folder / "f", std::string("a\0b", 3)));
  EXPECT_EQ(text_of(file), std::string("a\0b", 3));
}

TEST(MappedFile, OfAnEmptyFileIsEmpty) {
  const TempFolder folder;
  EXPECT_TRUE(MappedFile(write_file(folder / "f", "")).bytes().empty());
}

TEST(MappedFile, CanBeMoved) {
  const TempFolder folder;
  MappedFile file(write_file(folder / "f", "text"));
  const MappedFile moved = std::move(file);
  EXPECT_EQ(text_of(moved), "text");
}

TEST(MappedFile, KeepsItsBytesWhenTheFileIsReplaced) {
  const TempFolder folder;
  const MappedFile file(write_file(folder / "f", "old"));
  std::filesystem::rename(write_file(folder / "new", "new"), folder / "f");
  EXPECT_EQ(text_of(file), "old");
}

TEST(MappedFile, SaysThatTheFileBecameShorterInsteadOfDyingOfIt) {
  const TempFolder folder;
  const std::string text(100'000, 'x');
  const MappedFile file(write_file(folder / "f", text)), other(write_file(folder / "other", text));
  EXPECT_EQ(text_of(file), text);
  file.require_intact();
  std::filesystem::resize_file(folder / "f", 10);
  EXPECT_EQ(std::to_integer<char>(file.bytes()[50'000]), '\0');
  EXPECT_TRUE(fails_with([&] { file.require_intact(); }, {"/f", "became shorter than 100000 bytes"}));
  EXPECT_EQ(text_of(other), text);
  other.require_intact();
}

TEST(MappedFile, SaysThatTheFileWasRemovedUnlessItsNameWasToGo) {
  const test::TempFolder folder;
  test::write_file(folder / "f", "abc");
  const MappedFile kept(folder / "f");
  MappedFile temporary(folder / "f");
  temporary.forget_name();
  std::filesystem::remove(folder / "f");
  EXPECT_TRUE(fails_with([&] { kept.require_intact(); }, {"/f", "changed, replaced or removed"}));
  temporary.require_intact();
}

TEST(MappedFile, LeavesABusErrorThatIsNotItsOwnToBeDeath) {
  const TempFolder folder;
  const MappedFile file(write_file(folder / "f", "text"));  // the handler is there
  const FileDescriptor plain = open_regular_file(write_file(folder / "g", ""));
  void* const page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, plain.get(), 0);
  ASSERT_NE(page, MAP_FAILED);
  // By the signal, or by whoever handled it before, as a sanitizer does.
  EXPECT_DEATH(static_cast<void>(*static_cast<volatile char*>(page)), "");
}

TEST(MappedFile, CanBeReadAfterItsPagesAreReleased) {
  const TempFolder folder;
  const std::string text(100'000, 'x');
  const MappedFile file(write_file(folder / "f", text));
  release(file.bytes().subspan(5, 50'000));
  release({});
  EXPECT_EQ(text_of(file), text);
}

// A hang is what these must not do; it would end in ctest's timeout.
TEST(RegularFile, IsNotAFolder) {
  const TempFolder folder;
  EXPECT_TRUE(fails_with([&] { MappedFile file(folder.path()); }, {folder.path().string(), "a folder"}));
  EXPECT_TRUE(fails_with([&] { read_small_file(folder.path()); }, {folder.path().string(), "a folder"}));
}

TEST(RegularFile, IsNotAPipe) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(fails_with([&] { MappedFile file(folder / "pipe"); }, {"/pipe", "not a regular file"}));
  EXPECT_TRUE(fails_with([&] { read_small_file(folder / "pipe"); }, {"/pipe", "not a regular file"}));
}

TEST(RegularFile, IsNotASocket) {
  const TempFolder folder;
  const FileDescriptor listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (folder / "socket").c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_TRUE(fails_with([&] { MappedFile file(folder / "socket"); }, {"/socket", "cannot open"}));
}

TEST(RegularFile, IsNotADevice) {
  EXPECT_TRUE(fails_with([] { MappedFile file("/dev/zero"); }, {"/dev/zero", "not a regular file"}));
  EXPECT_TRUE(fails_with([] { read_small_file("/dev/zero"); }, {"/dev/zero", "not a regular file"}));
}

TEST(RegularFile, HasToBeThere) {
  const TempFolder folder;
  EXPECT_TRUE(fails_with([&] { MappedFile file(folder / "gone"); }, {"/gone", "No such file"}));
  EXPECT_TRUE(fails_with([&] { read_small_file(folder / "g\x1b[2J"); }, {"/g\\x1b[2J", "No such file"}));
}

TEST(ReadSmallFile, ReadsWhatWasWritten) {
  const TempFolder folder;
  const std::string text("line\n\0\xff", 7);
  write_small_file(folder / "f", text);
  EXPECT_EQ(read_small_file(folder / "f"), text);
  write_small_file(folder / "empty", "");
  EXPECT_EQ(read_small_file(folder / "empty"), "");
}

TEST(ReadSmallFile, RefusesALargerOne) {
  const TempFolder folder;
  write_file(folder / "f", "12345");
  EXPECT_EQ(read_small_file(folder / "f", 5), "12345");
  EXPECT_TRUE(fails_with([&] { read_small_file(folder / "f", 4); }, {"/f", "5 bytes", "at most 4"}));
}

TEST(ReadSmallFile, DoesNotTakeMemoryForAHugeOne) {
  const TempFolder folder;
  write_file(folder / "f", "");
  ASSERT_EQ(::truncate((folder / "f").c_str(), 1ll << 42), 0);
  EXPECT_TRUE(fails_with([&] { read_small_file(folder / "f"); }, {"/f", "4398046511104 bytes"}));
}

TEST(WriteSmallFile, NeverReplacesAFile) {
  const TempFolder folder;
  write_file(folder / "f", "old");
  EXPECT_TRUE(fails_with([&] { write_small_file(folder / "f", "new"); }, {"/f", "cannot create", "exists"}));
  EXPECT_EQ(read_file(folder / "f"), "old");
}

TEST(WriteSmallFile, DoesNotWriteThroughALink) {
  const TempFolder folder;
  write_file(folder / "target", "old");
  std::filesystem::create_symlink(folder / "target", folder / "link");
  EXPECT_THROW(write_small_file(folder / "link", "new"), Error);
  EXPECT_EQ(read_file(folder / "target"), "old");
}

TEST(SyncFolder, NamesAFolderThatIsNotThere) {
  const TempFolder folder;
  sync_folder(folder.path());
  EXPECT_TRUE(fails_with([&] { sync_folder(folder / "gone"); }, {"/gone"}));
}

}  // namespace
}  // namespace upmoe
