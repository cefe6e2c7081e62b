#include "upmoe/io/apart.h"

#include <gtest/gtest.h>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::fails_with;
using test::TempFolder;
using test::write_file;

TEST(Apart, AreTwoPlacesOfWhichNoneIsInTheOther) {
  const TempFolder temp;
  write_file(temp / "in" / "file", "");
  fs::create_directory(temp / "inner");
  for (const char* output : {"out", "inner/out", "in2", "in.safetensors"})
    require_apart(temp / output, temp / "in");
  require_apart(temp / "other", temp / "in" / "file");
}

TEST(Apart, AreNotAnInputAndWhatIsAroundItOrInIt) {
  const TempFolder temp;
  write_file(temp / "in" / "deep" / "file", "");
  for (const char* output : {"in", "in/", "in/.", "in/new/out", "in/deep", "in/../in", ""})
    EXPECT_TRUE(fails_with([&] { require_apart(temp.path() / output, temp / "in"); }, {"its own source"}))
        << output;
  EXPECT_TRUE(
      fails_with([&] { require_apart(temp / "in", temp.path() / "in/deep/file"); }, {"its own source"}));
}

TEST(Apart, AreNotAPlaceAndALinkToIt) {
  const TempFolder temp;
  write_file(temp / "in" / "file", "");
  fs::create_directory_symlink("in", temp / "link");
  EXPECT_TRUE(fails_with([&] { require_apart(temp.path() / "link/out", temp / "in"); }, {"its own source"}));
  EXPECT_TRUE(fails_with([&] { require_apart(temp / "in", temp.path() / "link/file"); }, {"its own source"}));
}

TEST(Apart, AreNotAFolderAndWhatALinkInItLeadsTo) {  // a snapshot in a cache, and a blob
  const TempFolder temp;
  write_file(temp / "blobs" / "0123", "");
  fs::create_directories(temp / "snapshot");
  fs::create_symlink("../blobs/0123", temp / "snapshot" / "model.safetensors");
  for (const char* output : {"blobs", "blobs/0123"})
    EXPECT_TRUE(
        fails_with([&] { require_apart(temp.path() / output, temp / "snapshot"); }, {"its own source"}));
  require_apart(temp.path() / "blobs/4567", temp / "snapshot");
}

TEST(Apart, AreNotAFolderAndAFileOfItUnderAnotherName) {
  const TempFolder temp;
  write_file(temp / "in" / "deep" / "file", "");
  fs::create_hard_link(temp.path() / "in/deep/file", temp / "out");
  EXPECT_TRUE(fails_with([&] { require_apart(temp / "out", temp / "in"); }, {"its own source"}));
}

TEST(Apart, AreNotTwoNamesOfOneFile) {
  const TempFolder temp;
  write_file(temp / "in", "");
  fs::create_hard_link(temp / "in", temp / "out");
  EXPECT_TRUE(fails_with([&] { require_apart(temp / "out", temp / "in"); }, {"its own source"}));
}

}  // namespace
}  // namespace upmoe
