// The statistics of `upmoe calibrate`. The input is read three times: as a whole file; as the record in its
// metadata; and as what fills a file whose tensors lie as they should: six digits say which it has, then a
// line is the record, and the rest is data.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "upmoe/checkpoint/calibration.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe::fuzz {
namespace {

constexpr std::int64_t L = 1, H = 2, F = 2;  // of the model that the file is said to be of

void check_layer(const Calibration& file, const Calibration::Layer& layer) {
  const std::int64_t D = file.shape().texts, M = file.shape().samples;
  const auto check_all = [](const auto& numbers, std::int64_t count, bool may_be_negative) {
    check(std::int64_t(numbers.size()) == count, "another number of numbers than the shape's");
    for (const auto x : numbers)
      check(std::isfinite(double(x)) && (may_be_negative || x >= 0), "a number that is none of its kind");
  };
  check_all(layer.router_input_MH, M * H, true);
  check_all(layer.router_input_mean_DH, D * H, true);
  check_all(layer.router_input_std_DH, D * H, false);
  check_all(layer.router_input_covariance_HH, file.shape().covariance ? H * H : 0, true);
  check_all(layer.ffn_output_mean_DH, D * H, true);
  check_all(layer.ffn_output_std_DH, D * H, false);
  check_all(layer.neuron_mean_abs_DF, D * F, false);
  check_all(layer.neuron_mean_square_DF, D * F, false);
  check_all(layer.importance_DF, file.shape().importance ? D * F : 0, false);
  check_all(layer.active_DF, D * F, false);
  check_all(layer.co_active_FF, file.shape().co_activation ? F * F : 0, false);
  for (const std::int64_t count : layer.active_DF) check(count <= file.tokens(), "active without a token");
  for (const std::int64_t count : layer.co_active_FF) check(count <= file.tokens(), "a pair without a token");
}

void check_samples(const Calibration& file) {
  const auto text_M = file.sample_text_M();
  const auto token_M = file.sample_token_M();
  check(text_M.size() == token_M.size() && !text_M.empty(), "samples of half a place");
  for (std::size_t m = 0; m < text_M.size(); ++m) {
    check(text_M[m] >= 0 && std::size_t(text_M[m]) < file.tokens_D().size(), "a sample of no text");
    check(token_M[m] >= 0 && token_M[m] < file.tokens_D()[std::size_t(text_M[m])], "a sample of no token");
    check(m == 0 || text_M[m - 1] < text_M[m] || token_M[m - 1] < token_M[m], "samples do not ascend");
  }
}

// The reader maps a file; this one is in memory.
void read_file(std::string_view bytes) {
  static const FileDescriptor memory(::memfd_create("calibration", 0));
  static const std::string path = fmt::format("/proc/self/fd/{}", memory.get());
  check(::ftruncate(memory.get(), 0) == 0, "a file that cannot be emptied");
  write_at(memory, path, 0, std::as_bytes(std::span(bytes)));
  only_errors([&] {
    DenseConfig config;
    config.num_layers = L, config.hidden_size = H, config.intermediate_size = F;
    const Calibration file(path, config);
    check(file.record().texts.size() == file.tokens_D().size(), "texts without a count");
    check_samples(file);
    for (std::int64_t l = 0; l < L; ++l) check_layer(file, file.layer(l));
  });
}

void read_record(std::string_view text) {
  only_errors([&] {
    const CalibrationRecord record = parse_calibration_record(text, "record");
    const auto json = nlohmann::json::parse(text);
    check(json.at("version").dump() == "1" && json.at("experts").dump() == fmt::to_string(record.experts),
          "a number that does not stand there");
    const std::string written = calibration_record_text(record);
    check(calibration_record_text(parse_calibration_record(written, "again")) == written,
          "another record after writing");
  });
}

void read_parts(std::string_view input) {
  if (input.size() < 6) return;
  const auto digit = [&](std::size_t i) { return std::int64_t{input[i] & 7}; };
  const std::vector<TensorInfo> tensors = calibration_layout({.layers = digit(0),
                                                              .hidden = digit(1),
                                                              .neurons = digit(2),
                                                              .texts = digit(3),
                                                              .samples = digit(4),
                                                              .covariance = (digit(5) & 1) != 0,
                                                              .co_activation = (digit(5) & 2) != 0,
                                                              .importance = (digit(5) & 4) != 0});
  input.remove_prefix(6);
  const std::string record(input.substr(0, input.find('\n')));
  std::string data(input.substr(std::min(record.size() + 1, input.size())));
  data.resize(tensors.back().end);
  only_errors([&] {
    parse_json_object(record, "record");  // what is no text could not be written into a header
    read_file(safetensors_header(tensors, {{{kCalibrationKey, record}}}) + data);
  });
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe::fuzz;
  read_file(text_of(data, size));
  read_record(text_of(data, size));
  read_parts(text_of(data, size));
  return 0;
}
