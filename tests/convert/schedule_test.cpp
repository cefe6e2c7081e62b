// What is read, in which order, and what is in memory for it: properties of schedules of tiny models, with
// chunks that are larger than they are. Sharding the source makes many chunks of them.
#include "upmoe/convert/schedule.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/checkpoint/dense_weights.h"
#include "upmoe/io/file_window.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {
namespace {

class EveryMethodSchedule : public testing::TestWithParam<std::string> {
 protected:
  // Matrices of 5 MB, in a file each: many chunks, without being slow.
  static void SetUpTestSuite() {
    folder_ = new test::TempFolder;
    test::make_tiny_llama(*folder_ / "dense",
                          {.layers = 3, .hidden = 64, .ffn = 40'000, .vocab = 64, .shards = 9});
  }
  static void TearDownTestSuite() { delete folder_; }

  static Plan plan(std::uint64_t max_shard_bytes = 5'000'000'000) {
    ConvertRequest request;
    request.folder = folder_->path() / "dense";
    request.source = request.folder.string();
    request.method = GetParam();
    request.experts = 4;
    request.max_shard_bytes = max_shard_bytes;
    return make_plan(request);
  }
  static test::TempFolder* folder_;
};
test::TempFolder* EveryMethodSchedule::folder_ = nullptr;

std::vector<std::size_t> all_files(const Plan& plan) {
  std::vector<std::size_t> out(plan.files.size());
  for (std::size_t f = 0; f < out.size(); ++f) out[f] = f;
  return out;
}

// As ReadAhead does it: a load takes a slot, its last task gives it back.
void expect_to_fit(const Schedule& schedule) {
  std::vector<std::uint32_t> uses_left;
  for (const Load& load : schedule.loads) uses_left.push_back(load.uses);
  std::set<std::uint32_t> alive;
  std::uint32_t next = 0;
  for (const Task& task : schedule.tasks) {
    for (const std::uint32_t load : task.loads) {
      for (; next <= load; ++next) alive.insert(next);  // in their order
      EXPECT_TRUE(alive.contains(load));
    }
    EXPECT_LE(alive.size(), schedule.num_slots);
    for (const std::uint32_t load : task.loads)
      if (--uses_left[load] == 0) alive.erase(load);
  }
  EXPECT_EQ(next, schedule.loads.size());
  EXPECT_TRUE(alive.empty());
}

std::vector<std::string> method_names() {
  std::vector<std::string> out;
  for (const MethodInfo& method : upcycle::methods()) out.push_back(method.name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(All, EveryMethodSchedule, testing::ValuesIn(method_names()),
                         [](const auto& each) { return each.param; });

TEST_P(EveryMethodSchedule, CoversEveryByteOfTheOutputOnceAndInOrder) {
  const Plan plan = this->plan(10'000'000);
  ASSERT_GT(plan.files.size(), 3u);
  const Schedule schedule = make_schedule(plan, all_files(plan));
  std::vector<std::uint64_t> done(plan.files.size());
  std::size_t last = 0;
  for (const Task& task : schedule.tasks) {
    if (task.is_scan) continue;
    EXPECT_GE(task.block.file, last);
    last = task.block.file;
    EXPECT_EQ(task.block.at, done[last]);
    done[last] += task.block.bytes;
  }
  for (std::size_t f = 0; f < done.size(); ++f) EXPECT_EQ(done[f], plan.files[f].bytes);
}

TEST_P(EveryMethodSchedule, ReadsEveryChunkAtMostOnce) {
  const Plan plan = this->plan();
  const Schedule schedule = make_schedule(plan, all_files(plan));
  std::set<std::pair<std::size_t, std::uint64_t>> seen;
  for (const Load& load : schedule.loads) EXPECT_TRUE(seen.emplace(load.file, load.chunk).second);
  if (GetParam() == "scratch")
    EXPECT_TRUE(seen.empty());
  else
    EXPECT_GE(seen.size() * kBlockBytes, plan.source.data_bytes());
}

TEST_P(EveryMethodSchedule, NeverHasMoreInMemoryThanThereAreSlots) {
  const Plan plan = this->plan();
  expect_to_fit(make_schedule(plan, all_files(plan)));
}

TEST_P(EveryMethodSchedule, ScansWhatIsReadForExpertsRowByRowBeforeItsFirstBlock) {
  const Plan plan = this->plan();
  const Schedule schedule = make_schedule(plan, all_files(plan));
  std::map<std::size_t, std::int64_t> rows;
  std::set<std::size_t> used;
  for (const Task& task : schedule.tasks) {
    if (task.is_scan) {
      EXPECT_FALSE(used.contains(task.scan.weight));
      EXPECT_EQ(task.scan.begin, rows[task.scan.weight]);
      EXPECT_EQ(task.scan.begin % NeuronMomentsBuilder::kRowStep, 0);
      rows[task.scan.weight] = task.scan.end;
      continue;
    }
    for (const Piece& piece : pieces(plan, task.block))
      if (const Origin& origin = plan.files[task.block.file].tensors[piece.tensor].origin;
          origin.kind == Origin::Kind::expert)
        used.insert(origin.weight);
  }
  EXPECT_EQ(rows.size(), plan.method->reads().weights ? 9u : 0u);
  for (const auto& [weight, count] : rows)
    EXPECT_EQ(count, plan.source.weights()[weight].stored.info->shape[0]);
}

TEST_P(EveryMethodSchedule, SharesTheFilesOutOverRanksWithoutOverlap) {
  const Plan plan = this->plan(10'000'000);
  std::multiset<std::size_t> files;
  for (std::size_t rank = 0; rank < 3; ++rank)
    for (std::size_t f = rank; f < plan.files.size(); f += 3) {
      const Schedule schedule = make_schedule(plan, {f});
      for (const Task& task : schedule.tasks)
        if (!task.is_scan && task.block.at == 0) files.insert(task.block.file);
    }
  EXPECT_EQ(files.size(), plan.files.size());
}

TEST_P(EveryMethodSchedule, LeavesOutOnlyWhatRepeatsWholeTensorsOfOneWeight) {
  const Plan plan = this->plan();
  const Schedule schedule = make_schedule(plan, all_files(plan), /*reflink=*/true);
  std::uint64_t repeated = 0;
  for (const Task& task : schedule.tasks) {
    if (task.is_scan || task.block.repeats == 0) continue;
    EXPECT_GE(task.block.repeats, task.block.bytes);
    EXPECT_EQ(task.block.repeats % kBlockAlignment, 0u);
    repeated += task.block.bytes;
    Block before = task.block;
    before.at -= task.block.repeats;
    const std::vector<Piece> here = pieces(plan, task.block), there = pieces(plan, before);
    ASSERT_EQ(here.size(), there.size());
    for (std::size_t i = 0; i < here.size(); ++i) {
      EXPECT_EQ(here[i].begin, there[i].begin);
      EXPECT_EQ(here[i].bytes, there[i].bytes);
      const auto& tensors = plan.files[task.block.file].tensors;
      EXPECT_EQ(tensors[here[i].tensor].origin.weight, tensors[there[i].tensor].origin.weight);
    }
  }
  EXPECT_EQ(repeated > 0, GetParam() == "copy");
}

// A model on the disk that is all holes but for its header; `options` say its shape.
std::uint64_t make_sparse_llama(const std::filesystem::path& folder, const test::TinyOptions& options) {
  const std::string config = test::tiny_config(options);
  test::write_file(folder / "config.json", config);
  std::vector<TensorInfo> tensors;
  std::uint64_t at = 0;
  for (const DenseWeight& weight : dense_weights(parse_dense_config(config, "config.json"))) {
    const std::uint64_t bytes = tensor_bytes(Dtype::bf16, weight.shape, weight.name);
    tensors.push_back({weight.name, Dtype::bf16, weight.shape, at, at + bytes});
    at += bytes;
  }
  const std::string header = safetensors_header(tensors);
  std::filesystem::resize_file(test::write_file(folder / "model.safetensors", header), header.size() + at);
  return at;
}

TEST(Schedule, ReadsTheEmbeddingOfATiedHeadOnce) {
  const test::TempFolder folder;
  make_sparse_llama(folder.path(), {.layers = 1, .hidden = 1024, .vocab = 100'000, .tied = true});
  for (const std::string method : {"copy", "drop"}) {
    ConvertRequest request;
    request.source = folder.path().string();
    request.folder = folder.path();
    request.method = method;
    const Plan plan = make_plan(request);
    const Schedule schedule = make_schedule(plan, all_files(plan));
    ASSERT_GT(plan.source.weights().front().stored.info->bytes() / kBlockBytes, 2 * schedule.num_slots);
    expect_to_fit(schedule);
    std::set<std::pair<std::size_t, std::uint64_t>> chunks;
    for (const Load& load : schedule.loads) chunks.emplace(load.file, load.chunk);
    EXPECT_LE(schedule.loads.size(),
              chunks.size() + 1);  // the first one again, where head and embedding meet
    std::map<std::uint64_t, std::size_t> blocks;
    for (const Task& task : schedule.tasks)
      if (!task.is_scan) blocks[task.block.at] += task.block.bytes;
    std::uint64_t end = 0;
    for (const auto& [at, bytes] : blocks) {
      EXPECT_EQ(at, end);
      end += bytes;
    }
    EXPECT_EQ(end, plan.files.front().bytes);
  }
}

// Matrices of half a gigabyte, as a model of 70 billion parameters has them; on the disk they are holes.
TEST(Schedule, ReadsAgainWhatDoesNotFitInsteadOfTakingMoreMemory) {
  const test::TempFolder folder;
  const std::uint64_t at = make_sparse_llama(
      folder.path(),
      {.layers = 1, .hidden = 8192, .ffn = 28'672, .heads = 64, .kv_heads = 8, .head_dim = 128});
  ConvertRequest request;
  request.source = folder.path().string();
  request.folder = folder.path();
  request.experts = 3;
  const Plan plan = make_plan(request);
  const Schedule schedule = make_schedule(plan, all_files(plan));
  EXPECT_LE(plan.peak_memory, 450'000'000u);
  EXPECT_LE(schedule.num_slots, 72u);
  expect_to_fit(schedule);
  EXPECT_GT(schedule.loads.size() * kBlockBytes, at);      // not once,
  EXPECT_LT(schedule.loads.size() * kBlockBytes, 3 * at);  // but less often than there are experts
}

// Shapes as published models have them, on the disk as holes: what a plan forecasts is enough for its
// schedule.
TEST(Schedule, StaysBelowTheForecastOfThePlan) {
  const std::vector<test::TinyOptions> models = {
      {.layers = 2, .hidden = 2048, .ffn = 8192, .vocab = 32'000, .heads = 32, .kv_heads = 8, .head_dim = 64},
      {.layers = 2,
       .hidden = 4096,
       .ffn = 14'336,
       .vocab = 128'256,
       .heads = 32,
       .kv_heads = 8,
       .head_dim = 128},
      {.layers = 2,
       .hidden = 8192,
       .ffn = 28'672,
       .vocab = 32'000,
       .heads = 64,
       .kv_heads = 8,
       .head_dim = 128},
      {.layers = 1, .hidden = 16'384, .ffn = 53'248, .heads = 128, .kv_heads = 8, .head_dim = 128}};
  for (const test::TinyOptions& model : models) {
    const test::TempFolder folder;
    make_sparse_llama(folder.path(), model);
    for (const MethodInfo& method : upcycle::methods())
      for (const std::int64_t experts : {4, 64}) {
        ConvertRequest request;
        request.source = folder.path().string();
        request.folder = folder.path();
        request.method = method.name;
        request.experts = experts;
        if (experts == 64 && model.hidden > 4096) continue;  // it would say nothing new
        const Plan plan = make_plan(request);
        const Schedule schedule = make_schedule(plan, all_files(plan));
        EXPECT_GE(plan.peak_memory, (kPoolBlocks + schedule.num_slots) * kBlockBytes)
            << method.name << ", " << experts << " experts, hidden size " << model.hidden;
        std::uint64_t uses = 0;
        for (const Task& task : schedule.tasks) uses += task.loads.size();
        EXPECT_GE(demand(plan).bookkeeping, schedule.tasks.size() * sizeof(Task) + uses * 12);
        EXPECT_EQ(demand(plan).slots, schedule.num_slots);
        expect_to_fit(schedule);
      }
  }
}

}  // namespace
}  // namespace upmoe
