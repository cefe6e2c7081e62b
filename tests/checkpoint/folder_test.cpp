#include "upmoe/checkpoint/folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::fails_with;
using test::TempFolder;
using test::Tensor;
using test::write_file;
using test::write_safetensors;

// A model folder, and beside it a file that is none of its business.
class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    fs::create_directory(model_);
    write_file(secret_, "secret");
  }
  Folder folder() const { return Folder(model_); }
  testing::AssertionResult refused(std::string_view name,
                                   std::initializer_list<std::string_view> parts) const {
    return fails_with([&] { folder().file(name, "whoever"); }, parts);
  }
  TempFolder temp_;
  const fs::path model_ = temp_ / "model", secret_ = temp_ / "secret.safetensors";
};

TEST_F(FolderTest, GivesThePathOfAFile) {
  write_file(model_ / "config.json", "{}");
  EXPECT_TRUE(folder().has("config.json"));
  EXPECT_FALSE(folder().has("tokenizer.json"));
  EXPECT_EQ(folder().file("config.json", "x"), model_ / "config.json");
  EXPECT_EQ(folder().config(), "{}");
}

TEST_F(FolderTest, HasToBeAFolder) {
  EXPECT_TRUE(fails_with([&] { Folder gone(temp_ / "gone"); }, {"/gone", "No such file"}));
  EXPECT_TRUE(fails_with([&] { Folder file(secret_); }, {"/secret.safetensors", "not a folder"}));
}

TEST_F(FolderTest, SaysWhoNamedAFileThatIsNotThere) {
  EXPECT_TRUE(refused("gone.json", {"whoever", "'gone.json'", "No such file"}));
  EXPECT_TRUE(
      fails_with([&] { folder().config(); }, {model_.string(), "no config.json", "a checkpoint folder?"}));
}

TEST_F(FolderTest, RefusesNamesThatAreNotPlain) {
  for (const std::string& name :
       {std::string("../secret.safetensors"), secret_.string(), std::string(".."), std::string()})
    EXPECT_TRUE(refused(name, {"whoever", "'" + name + "'", "plain name"})) << name;
}

TEST_F(FolderTest, FollowsALinkInside) {
  write_file(model_ / "a.txt", "text");
  fs::create_symlink("a.txt", model_ / "b.txt");
  EXPECT_EQ(folder().file("b.txt", "x"), model_ / "b.txt");
}

TEST_F(FolderTest, RefusesALinkThatLeadsOut) {
  fs::create_symlink(secret_, model_ / "absolute");
  fs::create_symlink("../secret.safetensors", model_ / "relative");
  fs::create_symlink("relative", model_ / "indirect");
  fs::create_symlink("/etc/passwd", model_ / "passwd");
  for (const std::string name : {"absolute", "relative", "indirect", "passwd"})
    EXPECT_TRUE(refused(name, {"/" + name, "leads out of the folder"})) << name;
}

TEST_F(FolderTest, RefusesALinkToAFolderWithASimilarName) {
  write_file(temp_ / "model-of-another" / "f", "text");
  fs::create_symlink("../model-of-another/f", model_ / "f");
  EXPECT_TRUE(refused("f", {"leads out of the folder"}));
}

TEST_F(FolderTest, RefusesALinkInCirclesOrToNowhere) {
  fs::create_symlink("b", model_ / "a");
  fs::create_symlink("a", model_ / "b");
  fs::create_symlink("nowhere", model_ / "c");
  EXPECT_TRUE(refused("a", {"'a'"}));
  EXPECT_TRUE(refused("c", {"'c'", "No such file"}));
}

TEST_F(FolderTest, RefusesWhatIsNotARegularFile) {
  ASSERT_EQ(::mkfifo((model_ / "pipe").c_str(), 0600), 0);
  fs::create_directory(model_ / "folder");
  EXPECT_TRUE(refused("pipe", {"/pipe", "not a regular file"}));
  EXPECT_TRUE(refused("folder", {"/folder", "not a regular file"}));
}

TEST_F(FolderTest, ListsAllThatIsNoFolderSorted) {
  for (const std::string name : {"b", "a", "c"}) write_file(model_ / name, "");
  fs::create_directory(model_ / "folder");
  fs::create_directory_symlink("folder", model_ / "link");
  fs::create_symlink("nowhere", model_ / "nothing");
  ASSERT_EQ(::mkfifo((model_ / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(folder().names(), (std::vector<std::string>{"a", "b", "c", "nothing", "pipe"}));
}

TEST_F(FolderTest, MayItselfBeReachedByALink) {
  write_file(model_ / "config.json", "{}");
  fs::create_symlink("model", temp_ / "link");
  EXPECT_EQ(Folder(temp_ / "link").file("config.json", "x"), temp_ / "link" / "config.json");
}

// models--x/snapshots/REV/f -> ../../blobs/HASH, as huggingface_hub lays out its cache.
class HubCache : public FolderTest {
 protected:
  HubCache() {
    fs::create_directories(snapshot_ / "additional_chat_templates");
    write_file(repo_ / "blobs" / "0123abcd", "{}");
    fs::create_symlink("../../blobs/0123abcd", snapshot_ / "config.json");
    fs::create_symlink("../../../blobs/0123abcd", snapshot_ / "additional_chat_templates" / "tool_use.jinja");
  }
  const fs::path repo_ = temp_ / "models--x", snapshot_ = repo_ / "snapshots" / "rev";
};

TEST_F(HubCache, MayLinkIntoItsBlobs) {
  EXPECT_EQ(Folder(snapshot_).config(), "{}");
  EXPECT_EQ(Folder(snapshot_).names(), std::vector<std::string>{"config.json"});
}

TEST_F(HubCache, MayNotLinkAnywhereElse) {
  write_file(repo_ / "refs" / "main", "rev");
  fs::create_symlink("../../refs/main", snapshot_ / "refs");
  fs::create_symlink("../../../secret.safetensors", snapshot_ / "secret");
  EXPECT_TRUE(fails_with([&] { Folder(snapshot_).file("refs", "x"); }, {"leads out of the folder"}));
  EXPECT_TRUE(fails_with([&] { Folder(snapshot_).file("secret", "x"); }, {"leads out of the folder"}));
}

TEST_F(HubCache, MayNotHaveBlobsThatAreALinkThemselves) {  // else an archive reaches every file of ours
  fs::remove_all(repo_ / "blobs");
  fs::create_symlink("..", repo_ / "blobs");
  fs::create_symlink("../../blobs/secret.safetensors", snapshot_ / "secret");
  EXPECT_TRUE(fails_with([&] { Folder(snapshot_).file("secret", "x"); }, {"leads out of the folder"}));
}

TEST_F(HubCache, LinksFromFoldersInsideToo) {
  const Folder templates = Folder(snapshot_).folder("additional_chat_templates");
  EXPECT_EQ(templates.names(), std::vector<std::string>{"tool_use.jinja"});
  EXPECT_EQ(test::read_file(templates.file("tool_use.jinja", "x")), "{}");
}

TEST_F(FolderTest, GivesFoldersInside) {
  write_file(model_ / "inside" / "f", "text");
  fs::create_symlink("../f", model_ / "inside" / "up");
  write_file(model_ / "f", "");
  fs::create_symlink("../../secret.safetensors", model_ / "inside" / "secret");
  const Folder inside = folder().folder("inside");
  EXPECT_EQ(inside.file("f", "x"), model_ / "inside" / "f");
  EXPECT_EQ(inside.file("up", "x"), model_ / "inside" / "up");
  EXPECT_TRUE(fails_with([&] { inside.file("secret", "x"); }, {"leads out of the folder"}));
}

TEST_F(FolderTest, RefusesAFolderInsideThatIsALink) {
  fs::create_directory_symlink("/etc", model_ / "etc");
  EXPECT_TRUE(fails_with([&] { folder().folder("etc"); }, {"/etc", "not a folder"}));
  EXPECT_TRUE(fails_with([&] { folder().folder(".."); }, {"plain name"}));
  EXPECT_TRUE(fails_with([&] { folder().folder("gone"); }, {"/gone", "not a folder"}));
}

// Weights: one file, or the shards of an index.

Tensor tensor(const std::string& name, int value = 1) {
  return {name, Dtype::u8, {1}, {static_cast<std::byte>(value)}};
}

class WeightsTest : public FolderTest {
 protected:
  void shard(const std::string& name, const std::vector<Tensor>& tensors) const {
    write_safetensors(model_ / name, tensors);
  }
  void index(const std::map<std::string, std::string>& map) const {
    write_file(model_ / "model.safetensors.index.json",
               nlohmann::json({{"metadata", {{"total_size", 1}}}, {"weight_map", map}}).dump());
  }
  testing::AssertionResult weights_refused(std::initializer_list<std::string_view> parts) const {
    return fails_with([&] { Weights weights(folder()); }, parts);
  }
};

TEST_F(WeightsTest, AreThoseOfTheSingleFile) {
  shard("model.safetensors", {tensor("b", 2), tensor("a", 1)});
  const Weights weights(folder());
  EXPECT_EQ(weights.num_shards(), 1u);
  EXPECT_EQ(weights.shard_names(), std::vector<std::string>{"model.safetensors"});
  ASSERT_EQ(weights.entries().size(), 2u);
  EXPECT_EQ(weights.entries().at("a").data()[0], std::byte{1});
  EXPECT_EQ(weights.entries().at("b").data()[0], std::byte{2});
}

TEST_F(WeightsTest, AreThoseOfTheShards) {
  shard("2.safetensors", {tensor("b", 2)});
  shard("1.safetensors", {tensor("c", 3), tensor("a", 1)});
  index({{"a", "1.safetensors"}, {"b", "2.safetensors"}, {"c", "1.safetensors"}});
  const Weights weights(folder());
  EXPECT_EQ(weights.shard_names(), (std::vector<std::string>{"1.safetensors", "2.safetensors"}));
  EXPECT_EQ(weights.entries().at("b").data()[0], std::byte{2});
  EXPECT_EQ(weights.entries().at("c").data()[0], std::byte{3});
}

TEST_F(WeightsTest, AreTheSingleFileWhereThereAreBoth) {  // as transformers resolves it
  shard("model.safetensors", {tensor("a")});
  shard("1.safetensors", {tensor("b")});
  index({{"b", "1.safetensors"}});
  EXPECT_EQ(Weights(folder()).entries().size(), 1u);
}

TEST_F(WeightsTest, IgnoreFilesThatNoIndexNames) {
  shard("1.safetensors", {tensor("a")});
  shard("consolidated.safetensors", {tensor("a")});
  index({{"a", "1.safetensors"}});
  EXPECT_EQ(Weights(folder()).num_shards(), 1u);
}

TEST_F(WeightsTest, RefuseATensorInTwoShards) {
  shard("1.safetensors", {tensor("a"), tensor("b")});
  shard("2.safetensors", {tensor("b")});
  index({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_TRUE(weights_refused({model_.string(), "'b'"}));
}

TEST_F(WeightsTest, RefuseATensorThatTheIndexHasElsewhere) {
  shard("1.safetensors", {tensor("a")});
  shard("2.safetensors", {tensor("b")});
  index({{"a", "2.safetensors"}, {"b", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"index.json", "'a' is in 1.safetensors", "the index says 2.safetensors"}));
}

TEST_F(WeightsTest, RefuseATensorThatTheIndexDoesNotKnow) {
  shard("1.safetensors", {tensor("a"), tensor("b")});
  index({{"a", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"index.json", "'b' is in 1.safetensors", "nothing of it"}));
}

TEST_F(WeightsTest, RefuseAnIndexWithATensorThatIsNotThere) {
  shard("1.safetensors", {tensor("a")});
  index({{"a", "1.safetensors"}, {"b", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"index.json", "'b'", "1.safetensors", "download complete?"}));
}

TEST_F(WeightsTest, RefuseAMissingShard) {
  index({{"a", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"index.json", "'1.safetensors'", "No such file"}));
}

TEST_F(WeightsTest, RefuseAnIndexThatNamesAFileOutside) {
  for (const std::string& name : {std::string("../secret.safetensors"), secret_.string()}) {
    index({{"a", name}});
    EXPECT_TRUE(weights_refused({"index.json", "plain name"})) << name;
  }
  fs::create_symlink("../secret.safetensors", model_ / "link.safetensors");
  index({{"a", "link.safetensors"}});
  EXPECT_TRUE(weights_refused({"link.safetensors", "leads out of the folder"}));
}

TEST_F(WeightsTest, DoNotHangOnAPipe) {
  ASSERT_EQ(::mkfifo((model_ / "1.safetensors").c_str(), 0600), 0);
  index({{"a", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"1.safetensors", "not a regular file"}));
  fs::rename(model_ / "1.safetensors", model_ / "model.safetensors");
  EXPECT_TRUE(weights_refused({"model.safetensors", "not a regular file"}));
  fs::rename(model_ / "model.safetensors", model_ / "model.safetensors.index.json");
  EXPECT_TRUE(weights_refused({"index.json", "not a regular file"}));
}

TEST_F(WeightsTest, RefuseAFolderInPlaceOfAShard) {
  fs::create_directory(model_ / "1.safetensors");
  index({{"a", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"1.safetensors", "not a regular file"}));
}

TEST_F(WeightsTest, NameTheBrokenShard) {
  write_file(model_ / "1.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  index({{"a", "1.safetensors"}});
  EXPECT_TRUE(weights_refused({"/1.safetensors: "}));
}

TEST_F(WeightsTest, SayWhyPickledOnesAreNotRead) {
  for (const std::string name : {"pytorch_model.bin", "consolidated.00.pth", "model.pt"}) {
    const TempFolder only;
    write_file(only / name, "PK");
    EXPECT_TRUE(
        fails_with([&] { Weights weights{Folder(only.path())}; }, {"pickled", name, "save_pretrained"}))
        << name;
  }
}

TEST_F(WeightsTest, SayWhyGgufIsNotRead) {
  write_file(model_ / "model-q4.gguf", "GGUF");
  EXPECT_TRUE(weights_refused({"GGUF", "model-q4.gguf", "gguf_file"}));
}

TEST_F(WeightsTest, SayThatThereAreNone) {
  EXPECT_TRUE(
      weights_refused({model_.string(), "neither model.safetensors nor model.safetensors.index.json"}));
}

}  // namespace
}  // namespace upmoe
