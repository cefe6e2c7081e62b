// The file of `upmoe calibrate`, written here without a model. Everything that a stranger could have put into
// it is refused.
#include "upmoe/checkpoint/calibration.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "upmoe/format/safetensors_writer.h"

namespace upmoe {
namespace {

using test::fails_with;

constexpr CalibrationShape kShape = {.layers = 2,
                                     .hidden = 4,
                                     .neurons = 3,
                                     .texts = 2,
                                     .samples = 3,
                                     .covariance = true,
                                     .co_activation = true,
                                     .importance = true};

DenseConfig config() {
  DenseConfig out;
  out.num_layers = kShape.layers, out.hidden_size = kShape.hidden, out.intermediate_size = kShape.neurons;
  return out;
}

template <class T>
std::vector<std::byte> bytes(const std::vector<T>& numbers) {
  const auto view = std::as_bytes(std::span(numbers));
  return {view.begin(), view.end()};
}

// A file and what can be spoilt of it before it is written.
struct Parts {
  CalibrationShape shape = kShape;
  CalibrationRecord record = {.source = "tiny",
                              .model_type = "llama",
                              .config_xxh3 = "00000000000000aa",
                              .source_xxh3 = {{"w", "00000000000000bb"}},
                              .options = {{"active", "2"}},
                              .texts = {{"prose", "01"}, {"code", "02"}}};
  std::vector<TensorInfo> tensors = calibration_layout(kShape);
  std::map<std::string, std::vector<std::byte>> data;
  std::vector<std::pair<std::string, std::string>> metadata = {
      {kCalibrationKey, calibration_record_text(record)}};

  Parts() {
    float next = 0;
    for (const TensorInfo& tensor : tensors) {
      std::vector<float> numbers(tensor.bytes() / 4);
      for (float& x : numbers) x = next += 0.5f;
      data[tensor.name] = bytes(numbers);
    }
    data["tokens"] = bytes<std::int64_t>({5, 7});
    data["sample.text"] = bytes<std::int32_t>({0, 0, 1});
    data["sample.token"] = bytes<std::int64_t>({1, 4, 0});
    for (const char* layer : {"layer.0.", "layer.1."}) {
      data[std::string(layer) + "active"] = bytes<std::int64_t>({5, 3, 2, 7, 0, 7});
      data[std::string(layer) + "co_active"] = bytes<std::int32_t>({12, 3, 9, 3, 3, 0, 9, 0, 9});
    }
  }

  std::filesystem::path write(const test::TempFolder& folder) const {
    SafetensorsWriter out(folder / "stats.safetensors", tensors, metadata, /*replace=*/true);
    for (const TensorInfo& tensor : tensors) out.put(tensor.name, data.at(tensor.name));
    out.commit();
    return folder / "stats.safetensors";
  }

  void rename(const std::string& from, const std::string& to) {
    for (TensorInfo& tensor : tensors)
      if (tensor.name == from) tensor.name = to;
    data[to] = data.at(from);
  }
};

template <class T>
std::vector<std::byte> bytes_of(std::span<const T> numbers) {
  const auto view = std::as_bytes(numbers);
  return {view.begin(), view.end()};
}

TEST(Calibration, GivesBackEveryNumber) {
  const test::TempFolder folder;
  const Parts parts;
  const Calibration found(parts.write(folder), config());
  EXPECT_EQ(bytes_of(found.tokens_D()), parts.data.at("tokens"));
  EXPECT_EQ(found.tokens(), 12);
  EXPECT_EQ(bytes_of(found.sample_text_M()), parts.data.at("sample.text"));
  EXPECT_EQ(bytes_of(found.sample_token_M()), parts.data.at("sample.token"));
  const Calibration::Layer layer = found.layer(1);
  const auto same = [&](const auto& numbers, const char* what) {
    EXPECT_EQ(bytes_of(numbers), parts.data.at(calibration_name(1, what))) << what;
  };
  same(layer.router_input_MH, "router_input");
  same(layer.router_input_mean_DH, "router_input_mean");
  same(layer.router_input_std_DH, "router_input_std");
  same(layer.router_input_covariance_HH, "router_input_covariance");
  same(layer.ffn_output_mean_DH, "ffn_output_mean");
  same(layer.ffn_output_std_DH, "ffn_output_std");
  same(layer.neuron_mean_abs_DF, "neuron_mean_abs");
  same(layer.neuron_mean_square_DF, "neuron_mean_square");
  same(layer.active_DF, "active");
  same(layer.co_active_FF, "co_active");
  same(layer.importance_DF, "importance");
}

TEST(Calibration, GivesBackWhereTheNumbersComeFrom) {
  const test::TempFolder folder;
  const Parts parts;
  const Calibration file(parts.write(folder), config());
  const CalibrationRecord& found = file.record();
  EXPECT_EQ(found.source, "tiny");
  EXPECT_EQ(found.config_xxh3, parts.record.config_xxh3);
  EXPECT_EQ(found.source_xxh3, parts.record.source_xxh3);
  EXPECT_EQ(found.options, parts.record.options);
  ASSERT_EQ(found.texts.size(), 2u);
  EXPECT_EQ(found.texts[1].name, "code");
}

TEST(Calibration, LeavesEmptyWhatWasNotMeasured) {
  const test::TempFolder folder;
  Parts parts;
  CalibrationShape shape = kShape;
  shape.covariance = shape.co_activation = shape.importance = false;
  parts.tensors = calibration_layout(shape);
  const Calibration found(parts.write(folder), config());
  EXPECT_TRUE(found.layer(0).co_active_FF.empty());
  EXPECT_TRUE(found.layer(0).importance_DF.empty());
  EXPECT_TRUE(found.layer(0).router_input_covariance_HH.empty());
  EXPECT_FALSE(found.shape().co_activation || found.shape().importance || found.shape().covariance);
}

testing::AssertionResult refused(const Parts& parts, std::initializer_list<std::string_view> words,
                                 const DenseConfig& expected = config()) {
  const test::TempFolder folder;
  const auto path = parts.write(folder);
  return fails_with([&] { const Calibration file(path, expected); }, words);
}

TEST(Calibration, RefusesAFileOfAnotherModel) {
  DenseConfig wider = config(), deeper = config(), shallower = config();
  wider.hidden_size = 8, deeper.num_layers = 3, shallower.num_layers = 1;
  EXPECT_TRUE(refused({}, {"stats.safetensors", "'layer.0.router_input'", "[3, 4]", "[3, 8]"}, wider));
  EXPECT_TRUE(refused({}, {"'layer.2.active' is missing"}, deeper));
  EXPECT_TRUE(refused({}, {"'layer.1.active' is not one that `upmoe calibrate` writes"}, shallower));
  Parts moe;
  moe.record.experts = 8;
  moe.metadata = {{kCalibrationKey, calibration_record_text(moe.record)}};
  EXPECT_TRUE(refused(moe, {"has the statistics of a Mixture of Experts"}));
}

TEST(Calibration, RefusesMetadataThatDoNotSayWhatItIs) {
  Parts none, broken, newer;
  none.metadata.clear();
  broken.metadata = {{kCalibrationKey, R"({"version":1,"options":7})"}};
  nlohmann::json record = nlohmann::json::parse(newer.metadata[0].second);
  record["version"] = 2;
  newer.metadata = {{kCalibrationKey, record.dump()}};
  EXPECT_TRUE(refused(none, {"has no 'upmoe.calibration'", "is it a file of `upmoe calibrate`?"}));
  EXPECT_TRUE(refused(broken, {"its metadata are not those that `upmoe calibrate` writes"}));
  EXPECT_TRUE(refused(newer, {"version 2 of the format, this upmoe reads 1"}));
}

TEST(Calibration, RefusesNumbersOfItsRecordThatAreNotWhole) {
  for (const char* key : {"version", "experts"})
    for (const nlohmann::json& value :
         std::vector<nlohmann::json>{1.5, 0.5, 1e300, -1, 1ull << 63, true, "1"}) {
      Parts parts;
      nlohmann::json record = nlohmann::json::parse(parts.metadata[0].second);
      record[key] = value;
      parts.metadata = {{kCalibrationKey, record.dump()}};
      EXPECT_TRUE(refused(parts, {key, "is " + value.dump(), "expected a whole number"}));
    }
}

TEST(Calibration, RefusesATensorThatIsMissingOrStrange) {
  Parts renamed, control;
  renamed.rename("layer.1.co_active", "layer.1.co");
  EXPECT_TRUE(refused(renamed, {"'layer.1.co_active' is missing"}));
  control.tensors.push_back(
      {"\x1b[2J", Dtype::u8, {0}, control.tensors.back().end, control.tensors.back().end});
  control.data["\x1b[2J"] = {};
  EXPECT_TRUE(refused(control, {"'\\x1b[2J' is not one that"}));
}

TEST(Calibration, RefusesSamplesThatAreNowhere) {
  const auto with = [](std::vector<std::int32_t> text, std::vector<std::int64_t> token) {
    Parts parts;
    parts.data["sample.text"] = bytes(text), parts.data["sample.token"] = bytes(token);
    return parts;
  };
  EXPECT_TRUE(refused(with({0, 0, 2}, {1, 4, 0}), {"sample 2 is token 0 of text 2"}));
  EXPECT_TRUE(refused(with({-1, 0, 1}, {1, 4, 0}), {"text -1"}));
  EXPECT_TRUE(refused(with({0, 0, 1}, {1, 5, 0}), {"sample 1 is token 5 of text 0"}));
  EXPECT_TRUE(refused(with({0, 0, 1}, {4, 4, 0}), {"sample 1 does not follow"}));
}

TEST(Calibration, RefusesTokensThatNobodyCounted) {
  for (const std::vector<std::int64_t>& tokens :
       std::initializer_list<std::vector<std::int64_t>>{{0, 7},
                                                        {-5, 7},
                                                        {std::numeric_limits<std::int64_t>::max(), 7},
                                                        {std::int64_t{1} << 30, std::int64_t{1} << 30}}) {
    Parts parts;
    parts.data["tokens"] = bytes(tokens);
    EXPECT_TRUE(refused(parts, {"tokens of a text, expected 1 to"}));
  }
}

TEST(Calibration, RefusesNumbersThatCannotBe) {
  const auto refused_in = [](const std::string& name, std::vector<std::byte> data) {
    const test::TempFolder folder;
    Parts parts;
    parts.data[name] = std::move(data);
    const Calibration file(parts.write(folder), config());
    return fails_with([&] { file.layer(0); },
                      {"'" + name + "' has a value that is negative, not finite or out of range"});
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(refused_in("layer.0.router_input", bytes(std::vector<float>(12, nan))));
  EXPECT_TRUE(refused_in("layer.0.router_input_std", bytes(std::vector<float>(8, -1))));
  EXPECT_TRUE(refused_in("layer.0.importance", bytes(std::vector<float>(6, -1))));
  EXPECT_TRUE(refused_in("layer.0.active", bytes<std::int64_t>({6, 3, 2, 7, 0, 7})));
  EXPECT_TRUE(refused_in("layer.0.active", bytes<std::int64_t>({5, -3, 2, 7, 0, 7})));
  EXPECT_TRUE(refused_in("layer.0.co_active", bytes<std::int32_t>({11, 3, 9, 3, 3, 0, 9, 0, 9})));
  EXPECT_TRUE(refused_in("layer.0.co_active", bytes<std::int32_t>({12, 3, 9, 2, 3, 0, 9, 0, 9})));
  EXPECT_TRUE(refused_in("layer.0.co_active", bytes<std::int32_t>({12, 3, 10, 3, 3, 0, 10, 0, 9})));
}

TEST(Calibration, RefusesNumbersThatLieAcrossTheirAlignment) {
  const test::TempFolder folder;
  std::string file = test::read_file(Parts().write(folder));
  std::uint64_t length = 0;  // a header one byte shorter: all data moves by one
  std::memcpy(&length, file.data(), 8);
  file.erase(8 + --length, 1);
  std::memcpy(file.data(), &length, 8);
  const auto path = test::write_file(folder / "moved.safetensors", file);
  EXPECT_TRUE(fails_with([&] { const Calibration found(path, config()); }, {"which is not a multiple of 8"}));
}

}  // namespace
}  // namespace upmoe
