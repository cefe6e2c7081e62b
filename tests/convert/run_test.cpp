// Whole conversions of tiny models: the same bytes however they are made, and nothing left behind when they
// are not.
#include "upmoe/convert/run.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/isa.h"
#include "upmoe/convert/convert.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/router_init/registry.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    out[entry.path().filename()] = read_small_file(entry.path());
  return out;
}

class Conversion : public testing::Test {
 protected:
  Conversion() { test::make_tiny_llama(folder_ / "dense", {.tied = true}); }

  ConvertRequest request(const std::string& method = "drop") const {
    ConvertRequest out;
    out.source = (folder_.path() / "dense").string();
    out.folder = out.source;
    out.method = method;
    out.experts = 4;
    return out;
  }
  std::map<std::string, std::string> made(const ConvertRequest& request, std::size_t threads = 2,
                                          const std::string& name = "out") const {
    const fs::path place = folder_.path() / name;
    fs::remove_all(place);
    convert(make_plan(request), place, {.threads = threads});
    return files_of(place);
  }
  std::vector<std::string> here() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder_.path())) out.push_back(entry.path().filename());
    std::ranges::sort(out);
    return out;
  }

  TempFolder folder_;
};

class EveryMethodRun : public Conversion, public testing::WithParamInterface<std::string> {};

std::vector<std::string> method_names() {
  std::vector<std::string> out;
  for (const MethodInfo& method : upcycle::methods()) out.push_back(method.name);
  return out;
}

TEST_P(EveryMethodRun, WritesTheSameFilesForAnyNumberOfThreadsAndInstructionSet) {
  const auto expected = made(request(GetParam()), 1);
  for (const std::size_t threads : {1, 2, 3, 8})
    EXPECT_EQ(made(request(GetParam()), threads), expected) << threads;
  const Isa active = active_isa();
  for (const Isa isa : available_isas()) {
    set_active_isa(isa);
    EXPECT_EQ(made(request(GetParam())), expected) << isa_name(isa);
  }
  set_active_isa(active);
}

TEST_P(EveryMethodRun, RecordsTheHashOfEveryTensorThatItWrote) {
  const auto files = made(request(GetParam()));
  const auto manifest = nlohmann::json::parse(files.at("upmoe.json"));
  const Weights weights{Folder(folder_.path() / "out")};
  EXPECT_EQ(manifest["output"]["tensors"].size(), weights.entries().size());
  for (const auto& [name, entry] : weights.entries())
    EXPECT_EQ(manifest["output"]["tensors"][name], hex(xxh3(entry.data()))) << name;
  const Weights dense{Folder(folder_.path() / "dense")};
  for (const auto& [name, hash] : manifest["source"]["tensors"].items())
    EXPECT_EQ(hash, hex(xxh3(dense.entries().at(name).data()))) << name;
  EXPECT_EQ(manifest["source"]["tensors"].size(), GetParam() == "scratch" ? 0 : dense.entries().size());
}

INSTANTIATE_TEST_SUITE_P(All, EveryMethodRun, testing::ValuesIn(method_names()),
                         [](const auto& each) { return each.param; });

TEST_F(Conversion, GivesTheSameTensorsInShardsOfAnySize) {
  made(request());
  const Weights whole{Folder(folder_.path() / "out")};
  EXPECT_EQ(whole.num_shards(), 1u);
  ConvertRequest small = request();
  small.max_shard_bytes = 20'000;
  made(small, 2, "sharded");
  const Weights shards{Folder(folder_.path() / "sharded")};
  EXPECT_GT(shards.num_shards(), 3u);
  ASSERT_EQ(shards.entries().size(), whole.entries().size());
  for (const auto& [name, entry] : whole.entries()) {
    const Weights::Entry& other = shards.entries().at(name);
    EXPECT_EQ(other.info->shape, entry.info->shape) << name;
    EXPECT_TRUE(std::ranges::equal(other.data(), entry.data())) << name;
  }
}

TEST_F(Conversion, PutsEveryTensorAtAMultipleOfItsElementAndTheDataAtAMultipleOf4096) {
  made(request());
  const SafetensorsFile file(folder_.path() / "out" / "model.safetensors");
  const MappedFile whole(folder_.path() / "out" / "model.safetensors");
  EXPECT_EQ(parse_safetensors(whole.bytes(), "x").data_begin % 4096, 0u);
  for (const TensorInfo& tensor : file.tensors())
    EXPECT_EQ(tensor.begin % (static_cast<std::uint64_t>(bits(tensor.dtype)) / 8), 0u) << tensor.name;
}

TEST_F(Conversion, DependsOnTheSeed) {
  ConvertRequest other = request();
  other.seed = 1;
  EXPECT_NE(made(other).at("model.safetensors"), made(request()).at("model.safetensors"));
}

TEST_F(Conversion, WritesTheHeadOutUnlessItIsToStayTied) {
  made(request());
  const Weights untied{Folder(folder_.path() / "out")};
  EXPECT_TRUE(std::ranges::equal(untied.entries().at("lm_head.weight").data(),
                                 untied.entries().at("model.embed_tokens.weight").data()));
  ConvertRequest keep = request();
  keep.keep_tied = true;
  const auto files = made(keep);
  EXPECT_FALSE(Weights{Folder(folder_.path() / "out")}.entries().contains("lm_head.weight"));
  EXPECT_EQ(nlohmann::json::parse(files.at("config.json"))["tie_word_embeddings"], true);
}

// Its blocks take turns with those of the embedding.
TEST_F(Conversion, WritesALargeTiedHeadOut) {
  test::make_tiny_llama(folder_ / "dense", {.hidden = 64, .vocab = 150'000, .tied = true});
  ConvertRequest request = this->request();
  request.max_shard_bytes = 60'000'000;
  const auto expected = made(request, 1);
  const auto manifest = nlohmann::json::parse(expected.at("upmoe.json"));
  const Weights weights{Folder(folder_.path() / "out")};
  for (const auto& [name, entry] : weights.entries())
    EXPECT_EQ(manifest["output"]["tensors"][name], hex(xxh3(entry.data()))) << name;
  EXPECT_TRUE(std::ranges::equal(weights.entries().at("lm_head.weight").data(),
                                 test::tensor_bytes_of(folder_ / "dense", "model.embed_tokens.weight")));
  EXPECT_TRUE(made(request, 3, "again") == expected);
  request.max_shard_bytes = 30'000'000;  // embedding and head in a file each
  made(request, 2, "sharded");
  const Weights shards{Folder(folder_.path() / "sharded")};
  for (const auto& [name, entry] : weights.entries())
    EXPECT_TRUE(std::ranges::equal(shards.entries().at(name).data(), entry.data())) << name;
}

TEST_F(Conversion, LeavesNothingBehindWhenItIsCancelled) {
  const std::atomic<bool> cancelled = true;
  EXPECT_THROW(convert(make_plan(request()), folder_.path() / "a" / "b" / "out",
                       {.threads = 2, .cancelled = &cancelled}),
               Interrupted);
  EXPECT_EQ(here(), std::vector<std::string>{"dense"});
}

TEST_F(Conversion, LeavesNothingBehindWhenItFailsInTheMiddle) {
  Plan plan = make_plan(request());
  plan.files.front().name = "no-such-folder/model.safetensors";  // cannot be created
  EXPECT_THROW(convert(plan, folder_.path() / "out", {.threads = 2}), Error);
  EXPECT_EQ(here(), std::vector<std::string>{"dense"});
}

// Cancelled after each number of blocks in turn, damaged as a power cut could, and gone on with.
TEST_F(Conversion, GoesOnToTheSameBytesWhereverItWasStopped) {
  test::make_tiny_llama(folder_ / "dense", {.layers = 3, .hidden = 64, .ffn = 9'000});
  ConvertRequest request = this->request();
  request.max_shard_bytes = 10'000'000;
  const auto expected = made(request, 2, "whole");
  const fs::path partial = folder_ / "out.upmoe-partial";
  std::uint64_t blocks = 0;
  convert(make_plan(request), folder_ / "count", {.progress = [&](auto, auto) { ++blocks; }});
  ASSERT_GT(blocks, 10u);
  for (std::uint64_t stop = 1; stop < blocks; ++stop) {
    std::atomic<bool> cancelled = false;
    std::uint64_t done = 0;
    const auto count = [&](auto, auto) { cancelled = ++done >= stop; };
    EXPECT_TRUE(test::fails_with<Interrupted>(
        [&] {
          convert(make_plan(request), folder_ / "out",
                  {.threads = 2, .cancelled = &cancelled, .progress = count, .resume = true});
        },
        {"interrupted"}));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    if (fs::exists(partial) && stop % 2 == 0)
      for (const auto& entry : fs::directory_iterator(partial))
        if (entry.path().extension() == ".safetensors") {
          std::fstream file(entry.path());
          file.seekp(static_cast<std::streamoff>(stop * 4096));
          file.write("torn", 4);
        }
    convert(make_plan(request), folder_ / "out", {.threads = 2, .resume = true});
    EXPECT_TRUE(files_of(folder_ / "out") == expected) << "stopped after " << stop << " blocks";
    fs::remove_all(folder_ / "out");
    EXPECT_FALSE(fs::exists(partial));
  }
}

TEST_F(Conversion, KeepsWhatIsStillWhatTheJournalSays) {
  test::make_tiny_llama(folder_ / "dense", {.layers = 3, .hidden = 64, .ffn = 9'000});
  ConvertRequest request = this->request();
  const std::uint64_t total = make_plan(request).file_bytes;
  std::atomic<bool> cancelled = false;
  EXPECT_THROW(convert(make_plan(request), folder_ / "out",
                       {.cancelled = &cancelled,
                        .progress = [&](std::uint64_t done, auto) { cancelled = done > total * 2 / 3; },
                        .resume = true}),
               Interrupted);
  const Converted again = convert(make_plan(request), folder_ / "out", {.resume = true});
  EXPECT_GT(again.run.bytes_kept, 0u);
  EXPECT_EQ(again.run.bytes_kept + again.run.bytes_written, total);
}

TEST_F(Conversion, RefusesToGoOnWithSomethingElseAndTouchesNothing) {
  test::make_tiny_llama(folder_ / "dense", {.layers = 3, .hidden = 64, .ffn = 24'000});
  ConvertRequest request = this->request();
  request.max_shard_bytes = 20'000'000;
  std::atomic<bool> cancelled = false;
  std::uint64_t done = 0;
  const auto stop = [&](auto, auto) { cancelled = ++done > 18; };
  EXPECT_THROW(convert(make_plan(request), folder_ / "out",
                       {.cancelled = &cancelled, .progress = stop, .resume = true}),
               Interrupted);
  const auto left = files_of(folder_ / "out.upmoe-partial");
  ASSERT_TRUE(left.contains("upmoe-journal"));
  ConvertRequest other = request;
  other.method_options = {{"ratio", "0.25"}};
  EXPECT_TRUE(test::fails_with([&] { convert(make_plan(other), folder_ / "out", {.resume = true}); },
                               {"used --ratio 0.5, not 0.25"}));
  const fs::path weights = folder_ / "dense" / "model.safetensors";
  fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::seconds(1));
  EXPECT_TRUE(test::fails_with([&] { convert(make_plan(request), folder_ / "out", {.resume = true}); },
                               {"had source model.safetensors modified"}));
  EXPECT_TRUE(test::fails_with(
      [&] { convert(make_plan(request), folder_ / "out", {.rank = {.rank = 0, .ranks = 2}}); },
      {"used --ranks 1, not 2"}));
  EXPECT_TRUE(files_of(folder_ / "out.upmoe-partial") == left);
}

TEST_F(Conversion, IsTheSameWhenRanksShareIt) {
  ConvertRequest request = this->request();
  request.max_shard_bytes = 20'000;
  const auto expected = made(request, 2, "alone");
  for (const std::size_t ranks : {2, 3, 100}) {
    std::vector<std::size_t> missing;
    for (std::size_t r = ranks; r-- > 0;) {
      EXPECT_FALSE(fs::exists(folder_ / "out"));
      missing = convert(make_plan(request), folder_ / "out", {.rank = {.rank = r, .ranks = ranks}}).missing;
      EXPECT_EQ(missing.size(), r);
      for (std::size_t i = 0; i < r; ++i) EXPECT_EQ(missing[i], i);
    }
    EXPECT_TRUE(files_of(folder_ / "out") == expected) << ranks;
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(Conversion, IsCompletedOnceWhenAllRanksFinishTogether) {
  ConvertRequest request = this->request();
  request.max_shard_bytes = 20'000;
  const auto expected = made(request, 2, "alone");
  constexpr std::size_t kRanks = 4;
  for (int round = 0; round < 10; ++round) {
    std::atomic<int> complete = 0;
    {
      std::vector<std::jthread> ranks;
      for (std::size_t r = 0; r < kRanks; ++r)
        ranks.emplace_back([&, r] {
          const Converted done =
              convert(make_plan(request), folder_ / "out", {.rank = {.rank = r, .ranks = kRanks}});
          complete += done.completed ? 1 : 0;
        });
    }
    EXPECT_EQ(complete, 1);
    EXPECT_TRUE(files_of(folder_ / "out") == expected);
    EXPECT_FALSE(fs::exists(folder_ / "out.upmoe-partial"));
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(Conversion, SaysThatRanksDisagree) {
  ConvertRequest request = this->request();
  request.max_shard_bytes = 20'000;
  convert(make_plan(request), folder_ / "out", {.rank = {.rank = 0, .ranks = 2}});
  request.seed = 1;
  EXPECT_TRUE(test::fails_with(
      [&] { convert(make_plan(request), folder_ / "out", {.rank = {.rank = 1, .ranks = 2}}); },
      {"upmoe-journal-0-of-2", "used --seed 0, not 1"}));
}

TEST_F(Conversion, ReportsItsProgressUpToTheWholeFile) {
  const Plan plan = make_plan(request());
  std::uint64_t last = 0;
  convert(plan, folder_.path() / "out",
          {.threads = 3, .progress = [&](std::uint64_t done, std::uint64_t total) {
             EXPECT_GT(done, last);
             EXPECT_EQ(total, plan.file_bytes);
             last = done;
           }});
  EXPECT_EQ(last, plan.file_bytes);
}

}  // namespace
}  // namespace upmoe
