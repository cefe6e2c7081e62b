#include "upmoe/data/batches.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "tests/data/token_files.h"
#include "tests/fails_with.h"
#include "upmoe/base/parallel.h"

namespace upmoe {
namespace {

using namespace test;
using Ids = std::vector<std::int32_t>;
using Starts = std::vector<std::int64_t>;

// Files whose token i is `first` + i.
class BatchesTest : public testing::Test {
 protected:
  const TokenFile& file(std::int32_t first, std::int32_t size) {
    std::vector<std::uint16_t> ids(std::size_t(size), 0);
    std::iota(ids.begin(), ids.end(), std::uint16_t(first));
    const auto name = std::to_string(files_.size()) + ".bin";
    return *files_.emplace_back(std::make_unique<TokenFile>(write_file(folder_ / name, bytes_of(ids))));
  }

  TempFolder folder_;
  std::vector<std::unique_ptr<TokenFile>> files_;
};

bool operator==(const Batch& a, const Batch& b) {
  return a.sequences == b.sequences && a.length == b.length && a.token == b.token && a.document == b.document;
}

TEST_F(BatchesTest, HoldConsecutiveTokens) {
  const Batches batches({{.file = &file(100, 50)}}, {.sequences = 3, .length = 4, .seed = 1});
  const Batch batch = batches.at(0);
  ASSERT_EQ(batch.token.size(), 15u);
  for (std::size_t b = 0; b < 3; ++b)
    for (std::size_t t = 0; t < 5; ++t) {
      EXPECT_EQ(batch.token[b * 5 + t], 100 + batches.place(std::int64_t(b)).begin + std::int64_t(t));
      EXPECT_EQ(batch.document[b * 5 + t], 0);
    }
}

// Every token but the first is once a target in an epoch; the epoch's last, short rest is left out.
TEST_F(BatchesTest, CoverEverySampleOnceInAnEpochAndInAnotherOrderInTheNext) {
  const Batches batches({{.file = &file(0, 1003)}}, {.sequences = 5, .length = 4, .seed = 7});
  ASSERT_EQ(batches.samples_of(0), 250);
  std::vector<std::int64_t> order[2];
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    std::map<std::int32_t, int> targets;
    for (std::int64_t n = 0; n < 50; ++n) {
      const Batch batch = batches.at(epoch * 50 + n);
      for (std::size_t i = 0; i < batch.token.size(); ++i)
        if (i % 5 != 0) ++targets[batch.token[i]];
    }
    EXPECT_EQ(targets.size(), 1000u);
    EXPECT_EQ(targets.begin()->first, 1);
    for (const auto& [token, times] : targets) EXPECT_EQ(times, 1) << token;
    for (std::int64_t i = 0; i < 250; ++i) {
      EXPECT_EQ(batches.place(epoch * 250 + i).epoch, epoch);
      order[epoch].push_back(batches.place(epoch * 250 + i).begin);
    }
    EXPECT_FALSE(std::ranges::is_sorted(order[epoch]));
  }
  EXPECT_NE(order[0], order[1]);
}

TEST_F(BatchesTest, AreFunctionsOfTheirNumberForAnyOrderAndNumberOfThreads) {
  const std::vector<BatchSource> sources = {{.file = &file(0, 999), .document_starts = {}, .weight = 0.7},
                                            {.file = &file(2000, 77), .document_starts = {}, .weight = 0.3}};
  const BatchOptions options{.sequences = 4, .length = 8, .seed = 3};
  const Batches batches(sources, options);
  std::vector<Batch> forwards, parallel(200);
  for (std::int64_t n = 0; n < 200; ++n) forwards.push_back(batches.at(n));
  parallel_for(200, 4, [&](std::size_t i) { parallel[199 - i] = batches.at(std::int64_t(199 - i)); });
  const Batches again(sources, options);
  for (std::int64_t n = 199; n >= 0; --n) {
    EXPECT_TRUE(again.at(n) == forwards[std::size_t(n)]);
    EXPECT_TRUE(parallel[std::size_t(n)] == forwards[std::size_t(n)]);
  }
  EXPECT_FALSE(Batches(sources, {.sequences = 4, .length = 8, .seed = 4}).at(0) == forwards[0]);
}

TEST_F(BatchesTest, AreMadeOfTheSameSamplesWhoeverTakesThem) {
  const Batches batches({{.file = &file(0, 999)}}, {.sequences = 6, .length = 8, .seed = 3});
  const Batch whole = batches.at(5);
  Ids parts;
  for (std::int64_t micro = 0; micro < 3; ++micro) {
    const Batch part = batches.samples(5 * 6 + micro * 2, 2);
    EXPECT_EQ(part.sequences, 2);
    parts.insert(parts.end(), part.token.begin(), part.token.end());
  }
  EXPECT_EQ(parts, whole.token);
}

TEST_F(BatchesTest, BlendByWeightAndRepeatASmallSourceSooner) {
  const Batches batches({{.file = &file(0, 1001), .document_starts = {}, .weight = 3},
                         {.file = &file(2000, 51), .document_starts = {}, .weight = 1}},
                        {.sequences = 4, .length = 10, .seed = 0});
  std::map<std::size_t, std::vector<std::int64_t>> begins;
  for (std::int64_t i = 0; i < 40; ++i) begins[batches.place(i).source].push_back(batches.place(i).begin);
  EXPECT_EQ(begins[0].size(), 30u);
  EXPECT_EQ(begins[1].size(), 10u);
  for (const int epoch : {0, 1})  // 5 samples each
    EXPECT_EQ(std::set(begins[1].begin() + 5 * epoch, begins[1].begin() + 5 * epoch + 5),
              (std::set<std::int64_t>{0, 10, 20, 30, 40}));
  EXPECT_EQ(std::set(begins[0].begin(), begins[0].end()).size(), 30u);
}

TEST_F(BatchesTest, NumberTheDocumentsOfEachRow) {
  const Starts starts = {0, 3, 4, 12};
  const Batches batches({{.file = &file(0, 17), .document_starts = starts}},
                        {.sequences = 2, .length = 8, .seed = 0});
  const std::map<std::int64_t, Ids> expected = {{0, {0, 0, 0, 1, 2, 2, 2, 2, 2}},
                                                {8, {0, 0, 0, 0, 1, 1, 1, 1, 1}}};
  const Batch batch = batches.at(0);
  for (std::int64_t b = 0; b < 2; ++b)
    EXPECT_EQ(Ids(batch.document.begin() + b * 9, batch.document.begin() + (b + 1) * 9),
              expected.at(batches.place(b).begin));
}

TEST_F(BatchesTest, RefuseAFileThatIsTooShort) {
  const TokenFile& short_file = file(0, 8);
  EXPECT_NO_THROW(Batches({{.file = &short_file}}, {.sequences = 1, .length = 7}));
  EXPECT_TRUE(fails_with([&] { Batches({{.file = &short_file}}, {.sequences = 1, .length = 8}); },
                         {"0.bin", "8 tokens are too few"}));
  EXPECT_TRUE(fails_with<UsageError>([&] { Batches({{.file = &short_file}}, {.sequences = 0, .length = 8}); },
                                     {"0 sequences"}));
}

}  // namespace
}  // namespace upmoe
