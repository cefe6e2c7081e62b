#include "upmoe/checkpoint/calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"

namespace upmoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kVersionOfFormat = 1;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;  // of all texts; counts of pairs are 32 bits

bool non_negative(std::span<const float> numbers) {
  return std::ranges::all_of(numbers, [](float x) { return std::isfinite(x) && x >= 0; });
}

bool finite(std::span<const float> numbers) {
  return std::ranges::all_of(numbers, [](float x) { return std::isfinite(x); });
}

}  // namespace

std::string calibration_name(std::int64_t layer, std::string_view what) {
  return fmt::format("layer.{}.{}", layer, what);
}

std::vector<TensorInfo> calibration_layout(const CalibrationShape& shape) {
  const auto [L, H, F, E, D, M, covariance, co_activation, importance] = shape;
  std::vector<TensorInfo> out;
  const auto add = [&](std::string name, Dtype dtype, std::vector<std::int64_t> sizes) {
    const std::uint64_t begin = out.empty() ? 0 : out.back().end;
    const std::uint64_t bytes = tensor_bytes(dtype, sizes, name);
    out.push_back({std::move(name), dtype, std::move(sizes), begin, begin + bytes});
  };
  // The wider ones first, so that each lies at a multiple of its element's size.
  add("tokens", Dtype::i64, {D});
  add("sample.token", Dtype::i64, {M});
  for (std::int64_t l = 0; l < L; ++l)
    if (E > 0)
      add(calibration_name(l, "expert_tokens"), Dtype::i64, {D, E});
    else
      add(calibration_name(l, "active"), Dtype::i64, {D, F});
  add("sample.text", Dtype::i32, {M});
  for (std::int64_t l = 0; l < L; ++l) {
    const auto add_f32 = [&](std::string_view what, std::int64_t rows, std::int64_t columns) {
      add(calibration_name(l, what), Dtype::f32, {rows, columns});
    };
    add_f32("router_input", M, H);
    add_f32("router_input_mean", D, H);
    add_f32("router_input_std", D, H);
    if (covariance) add_f32("router_input_covariance", H, H);
    add_f32("ffn_output_mean", D, H);
    add_f32("ffn_output_std", D, H);
    if (E > 0) continue;
    add_f32("neuron_mean_abs", D, F);
    add_f32("neuron_mean_square", D, F);
    if (importance) add_f32("importance", D, F);
    if (co_activation) add(calibration_name(l, "co_active"), Dtype::i32, {F, F});
  }
  return out;
}

std::string calibration_record_text(const CalibrationRecord& record) {
  Json texts = Json::array();
  for (const auto& [name, hash] : record.texts) texts.push_back({{"name", name}, {"xxh3", hash}});
  return Json({{"version", kVersionOfFormat},
               {"upmoe", UPMOE_VERSION},
               {"options", record.options},
               {"experts", record.experts},
               {"texts", texts},
               {"source",
                {{"name", record.source},
                 {"model_type", record.model_type},
                 {"config_xxh3", record.config_xxh3},
                 {"tensors", record.source_xxh3}}}})
      .dump();
}

CalibrationRecord parse_calibration_record(std::string_view text, std::string_view where) {
  const nlohmann::json json = parse_json_object(text, where);
  CalibrationRecord out;
  try {
    const std::uint64_t version = whole_number(json, "version", where);
    require(version == kVersionOfFormat, "{}: version {} of the format, this upmoe reads {}",
            printable(where), version, kVersionOfFormat);
    json.at("options").get_to(out.options);
    out.experts = static_cast<std::int64_t>(whole_number(json, "experts", where));
    for (const nlohmann::json& one : json.at("texts"))
      out.texts.push_back({one.at("name").get<std::string>(), one.at("xxh3").get<std::string>()});
    const nlohmann::json& source = json.at("source");
    source.at("name").get_to(out.source);
    source.at("model_type").get_to(out.model_type);
    source.at("config_xxh3").get_to(out.config_xxh3);
    source.at("tensors").get_to(out.source_xxh3);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: its metadata are not those that `upmoe calibrate` writes: {}", printable(where),
         printable(error.what()));
  }
  return out;
}

Calibration::Calibration(const std::filesystem::path& path, const DenseConfig& config)
    : file_(path), where_(printable(path.string())) {
  for (const TensorInfo& tensor : file_.tensors()) tensors_.emplace(tensor.name, &tensor);
  read_record();
  require(record_.experts == 0,
          "{}: has the statistics of a Mixture of Experts, expected those of a dense model", where_);
  const auto has = [&](std::string_view what) { return tensors_.contains(calibration_name(0, what)); };
  const auto samples = tensors_.find("sample.token");
  require(samples != tensors_.end() && samples->second->shape.size() == 1 && samples->second->shape[0] >= 1,
          "{}: tensor 'sample.token' is not a list of tokens", where_);
  shape_ = {.layers = config.num_layers,
            .hidden = config.hidden_size,
            .neurons = config.intermediate_size,
            .texts = static_cast<std::int64_t>(record_.texts.size()),
            .samples = samples->second->shape[0],
            .covariance = has("router_input_covariance"),
            .co_activation = has("co_active"),
            .importance = has("importance")};
  match_layout();
  tokens_D_ = numbers<std::int64_t>("tokens");
  sample_token_M_ = numbers<std::int64_t>("sample.token");
  sample_text_M_ = numbers<std::int32_t>("sample.text");
  for (const std::int64_t tokens : tokens_D_) {
    require(tokens >= 1 && tokens < kMostTokens - all_tokens_, "{}: {} tokens of a text, expected 1 to {}",
            where_, tokens, kMostTokens - all_tokens_ - 1);
    all_tokens_ += tokens;
  }
  check_samples();
  file_.require_intact();
}

void Calibration::read_record() {
  const nlohmann::json header = parse_json_object(file_.header().substr(8), where_);
  const auto metadata = header.find("__metadata__");
  require(metadata != header.end() && metadata->contains(kCalibrationKey),
          "{}: has no '{}' among its metadata; is it a file of `upmoe calibrate`?", where_, kCalibrationKey);
  record_ = parse_calibration_record(metadata->at(kCalibrationKey).get<std::string>(), where_);
}

void Calibration::match_layout() {
  const std::vector<TensorInfo> expected = calibration_layout(shape_);
  for (const TensorInfo& tensor : expected) {
    const auto found = tensors_.find(tensor.name);
    require(found != tensors_.end(), "{}: tensor '{}' is missing; does the file belong to another model?",
            where_, tensor.name);
    const TensorInfo& got = *found->second;
    require(got.dtype == tensor.dtype && got.shape == tensor.shape,
            "{}: tensor '{}' is {} {}, expected {} {}; does the file belong to another model?", where_,
            tensor.name, name(got.dtype), shape_text(got.shape), name(tensor.dtype),
            shape_text(tensor.shape));
  }
  if (tensors_.size() == expected.size()) return;
  for (const TensorInfo& tensor : expected) tensors_.erase(tensor.name);
  fail("{}: tensor '{}' is not one that `upmoe calibrate` writes; does the file belong to another model?",
       where_, printable(tensors_.begin()->first));
}

void Calibration::check_samples() const {
  for (std::size_t m = 0; m < sample_text_M_.size(); ++m) {
    const std::int64_t text = sample_text_M_[m], token = sample_token_M_[m];
    require(
        text >= 0 && text < shape_.texts && token >= 0 && token < tokens_D_[static_cast<std::size_t>(text)],
        "{}: sample {} is token {} of text {}, which does not exist", where_, m, token, text);
    require(m == 0 || std::pair(std::int64_t{sample_text_M_[m - 1]}, sample_token_M_[m - 1]) <
                          std::pair(text, token),
            "{}: sample {} does not follow the one before it", where_, m);
  }
}

template <class T>
std::span<const T> Calibration::numbers(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return {};
  const std::span<const std::byte> data = file_.data(*found->second);
  require(reinterpret_cast<std::uintptr_t>(data.data()) % alignof(T) == 0,
          "{}: tensor '{}' begins at byte {}, which is not a multiple of {}", where_, name,
          file_.data_begin(*found->second), alignof(T));
  return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
}

Calibration::Layer Calibration::layer(std::int64_t l) const {
  require(l >= 0 && l < shape_.layers, "{}: there is no layer {}, there are {}", where_, l, shape_.layers);
  const auto get = [&]<class T>(std::span<const T>& out, std::string_view what, auto&& good) {
    out = numbers<T>(calibration_name(l, what));
    require(good(out), "{}: tensor '{}' has a value that is negative, not finite or out of range", where_,
            calibration_name(l, what));
  };
  Layer out;
  get(out.router_input_MH, "router_input", finite);
  get(out.router_input_mean_DH, "router_input_mean", finite);
  get(out.router_input_std_DH, "router_input_std", non_negative);
  get(out.router_input_covariance_HH, "router_input_covariance", finite);
  get(out.ffn_output_mean_DH, "ffn_output_mean", finite);
  get(out.ffn_output_std_DH, "ffn_output_std", non_negative);
  get(out.neuron_mean_abs_DF, "neuron_mean_abs", non_negative);
  get(out.neuron_mean_square_DF, "neuron_mean_square", non_negative);
  get(out.importance_DF, "importance", non_negative);
  const auto F = static_cast<std::size_t>(shape_.neurons);
  get(out.active_DF, "active", [&](std::span<const std::int64_t> count) {
    for (std::size_t i = 0; i < count.size(); ++i)
      if (count[i] < 0 || count[i] > tokens_D_[i / F]) return false;
    return true;
  });
  get(out.co_active_FF, "co_active", [&](std::span<const std::int32_t> count) {
    for (std::size_t i = 0; i < (count.empty() ? 0 : F); ++i) {
      std::int64_t active = 0;
      for (std::size_t d = 0; d < tokens_D_.size(); ++d) active += out.active_DF[d * F + i];
      if (count[i * F + i] != active) return false;
      for (std::size_t j = 0; j < i; ++j)
        if (count[i * F + j] != count[j * F + i] || count[i * F + j] < 0 || count[i * F + j] > active)
          return false;
    }
    return true;
  });
  file_.require_intact();
  return out;
}

}  // namespace upmoe
