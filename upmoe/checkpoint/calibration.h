#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/base/options.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/format/safetensors.h"

// The file of `upmoe calibrate`. docs/calibration.md says what each number is, docs/formats.md has the
// grammar. Shape letters: L layers, H hidden size, F neurons, E experts, D texts, M sampled tokens.
namespace upmoe {

// What decides which tensors such a file has.
struct CalibrationShape {
  std::int64_t layers = 0, hidden = 0;
  std::int64_t neurons = 0;  // of the dense FFN; 0 for a Mixture of Experts
  std::int64_t experts = 0;  // 0 for a dense model
  std::int64_t texts = 0, samples = 0;
  bool covariance = false, co_activation = false, importance = false;
};

// All its tensors with their places, in the order of the file.
std::vector<TensorInfo> calibration_layout(const CalibrationShape& shape);

// "layer.3.active"
std::string calibration_name(std::int64_t layer, std::string_view what);

// Where the numbers come from: the metadata of the file.
struct CalibrationRecord {
  struct Text {
    std::string name, xxh3;  // of the ids that were looked at, each as four bytes
  };
  std::string source, model_type, config_xxh3;
  std::map<std::string, std::string> source_xxh3;  // of every weight by its name
  Values options;                                  // of the command, all resolved
  std::int64_t experts = 0;
  std::vector<Text> texts;
};
inline constexpr const char* kCalibrationKey = "upmoe.calibration";  // in __metadata__
std::string calibration_record_text(const CalibrationRecord& record);
CalibrationRecord parse_calibration_record(std::string_view text, std::string_view where);

// The statistics of a dense model, read and checked: a stranger's file. Spans must not outlive it. Safe to
// read from any thread.
class Calibration {
 public:
  // Throws Error where the file is not whole or not of a model of these sizes.
  Calibration(const std::filesystem::path& path, const DenseConfig& config);

  const CalibrationShape& shape() const { return shape_; }
  const CalibrationRecord& record() const { return record_; }
  std::span<const std::int64_t> tokens_D() const { return tokens_D_; }  // looked at, of each text
  std::int64_t tokens() const { return all_tokens_; }

  // Which tokens the rows of router_input_MH are of; ascending.
  std::span<const std::int32_t> sample_text_M() const { return sample_text_M_; }
  std::span<const std::int64_t> sample_token_M() const { return sample_token_M_; }  // number in its text

  // Matrices are row-major. What was not measured is empty.
  struct Layer {
    std::span<const float> router_input_MH, router_input_mean_DH, router_input_std_DH,
        router_input_covariance_HH;
    std::span<const float> ffn_output_mean_DH, ffn_output_std_DH;
    std::span<const float> neuron_mean_abs_DF, neuron_mean_square_DF;
    std::span<const std::int64_t> active_DF;     // tokens for which the neuron was active
    std::span<const std::int32_t> co_active_FF;  // tokens for which both were; the diagonal is active
    std::span<const float> importance_DF;
  };
  // Looks at every number of the layer.
  Layer layer(std::int64_t l) const;

 private:
  template <class T>
  std::span<const T> numbers(const std::string& name) const;
  void read_record();
  void match_layout();
  void check_samples() const;

  SafetensorsFile file_;
  std::string where_;
  CalibrationRecord record_;
  CalibrationShape shape_;
  std::map<std::string, const TensorInfo*, std::less<>> tensors_;
  std::span<const std::int64_t> tokens_D_, sample_token_M_;
  std::span<const std::int32_t> sample_text_M_;
  std::int64_t all_tokens_ = 0;
};

}  // namespace upmoe
