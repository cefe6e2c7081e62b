// What tests/python/test_calibrate.py can't see: which neurons count as active, and that the reader of the
// core accepts what the engine writes.
#include "upmoe/eval/calibrate.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/model/load.h"

namespace upmoe {
namespace {

using eval::ActiveCounts;
using eval::most_active;

TEST(MostActive, TakesTheLargestInSizeInTheOrderOfTheirNumbers) {
  const at::Tensor value_NF = at::tensor({1.f, -5.f, 0.f, 3.f, 9.f, 2.f, 2.f, -1.f}).view({2, 4});
  EXPECT_EQ(most_active(value_NF, 2), (std::vector<std::int32_t>{1, 3, 0, 1}));
}

TEST(MostActive, TakesTheFirstOfEquals) {
  const at::Tensor value_NF = at::tensor({0.f, 1.f, -1.f, 4.f, 1.f, 0.f}).view({1, 6});
  EXPECT_EQ(most_active(value_NF, 2), (std::vector<std::int32_t>{1, 3}));
  EXPECT_EQ(most_active(value_NF, 5), (std::vector<std::int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(most_active(value_NF, 6), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
}

TEST(ActiveCounts, CountsEachTextAndPairsOfAll) {
  ActiveCounts counts(/*texts=*/2, /*neurons=*/3, /*pairs=*/true);
  counts.add(0, {0, 2, 1, 2}, /*A=*/2);
  counts.add(1, {0, 2}, /*A=*/2);
  EXPECT_EQ(counts.active_DF(), (std::vector<std::int64_t>{1, 1, 2, 1, 0, 1}));
  EXPECT_EQ(counts.together_FF(), (std::vector<std::int32_t>{2, 0, 2, 0, 1, 1, 2, 1, 3}));
}

TEST(Calibrator, WritesWhatTheCoreReads) {
  const test::TempFolder folder;
  test::make_tiny_llama(folder / "tiny");
  std::string ids;  // nanoGPT's: 16 bits each
  for (int i = 0; i < 150; ++i) ids += {static_cast<char>(i * 7 % 64), '\0'};
  test::write_file(folder / "text.bin", ids);
  const model::Model model = model::load(folder / "tiny", {.compute = at::kFloat});
  std::vector<TokenFile> texts;
  for (int d = 0; d < 2; ++d) texts.emplace_back(folder / "text.bin");
  eval::Calibrator calibrator(model, texts, {.context = 32, .samples = 40, .covariance = true});
  const CalibrationRecord record = {.source = "tiny", .texts = {{"a", ""}, {"b", ""}}};
  const std::vector<std::pair<std::string, std::string>> metadata = {
      {kCalibrationKey, calibration_record_text(record)}};
  SafetensorsWriter out(folder / "stats", calibration_layout(calibrator.shape()), metadata,
                        /*replace=*/false);
  calibrator.run();
  calibrator.write(out);
  out.commit();
  const Calibration found(folder / "stats", model.config.llama);
  EXPECT_EQ(found.tokens(), 300);
  EXPECT_EQ(found.sample_text_M().size(), 40u);
  for (std::int64_t l = 0; l < found.shape().layers; ++l) {
    const Calibration::Layer layer = found.layer(l);
    EXPECT_FALSE(layer.co_active_FF.empty() || layer.importance_DF.empty());
    // Both texts are one text, so what is said of them is the same, whatever batch it came in.
    const auto F = layer.active_DF.size() / 2;
    EXPECT_TRUE(std::ranges::equal(layer.active_DF.first(F), layer.active_DF.last(F)));
    EXPECT_TRUE(std::ranges::equal(layer.importance_DF.first(F), layer.importance_DF.last(F)));
  }
}

}  // namespace
}  // namespace upmoe
