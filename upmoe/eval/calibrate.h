#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "upmoe/checkpoint/calibration.h"
#include "upmoe/data/token_file.h"
#include "upmoe/eval/active_neurons.h"
#include "upmoe/eval/perplexity.h"
#include "upmoe/format/safetensors_writer.h"
#include "upmoe/model/llama.h"

// Shape letters: D texts, M sampled tokens, H hidden size, F neurons, E experts, N tokens of a batch.
namespace upmoe::eval {

struct CalibrateOptions {
  std::int64_t context = 2048;       // tokens of a window; windows do not overlap
  std::int64_t max_tokens = 0;       // of each text; 0: all
  std::int64_t batch_tokens = 2048;  // that go through the model at once, about
  std::int64_t samples = 1024;
  std::int64_t active = 10;  // neurons of a token that count as active
  bool cosine = false;       // by cosine_neurons() instead of the neurons' own values
  bool covariance = false, co_activation = true, importance = true;
  std::uint64_t seed = 0;
};

// Measures what docs/calibration.md lists. Memory beside the model: the tensors of the file, and of one batch
// the input of every layer and the activations of one.
class Calibrator {
 public:
  // Throws UsageError for options that make no sense with this model and these texts, which must outlive it.
  Calibrator(const model::Model& model, const std::vector<TokenFile>& texts, const CalibrateOptions& options);

  const CalibrationShape& shape() const { return shape_; }
  std::int64_t tokens(std::size_t text) const { return tokens_D_[text]; }  // that are looked at

  // `progress` is called after each layer, with tokens done and in all; it may throw to stop.
  void run(const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});
  void write(SafetensorsWriter& out) const;

 private:
  struct Moments {
    at::Tensor sum_DH, square_DH;  // float64
    void add(std::int64_t text, const at::Tensor& x_NH);
  };
  struct Layer {
    at::Tensor router_input_MH, product_HH;
    Moments router_input, ffn_output;
    at::Tensor abs_DF, square_DF, importance_DF;  // sums, float64
    ActiveCounts counts;
    std::vector<std::int64_t> expert_DE;
  };
  struct Batch {
    std::int64_t text;
    at::Tensor token_BT, target_BT;
    std::int64_t first_slot;  // in router_input_MH
    at::Tensor sampled_rows;  // rows of N that go there, int64
  };

  void choose_samples();
  using Tick = std::function<void(std::int64_t step)>;  // of 3 L steps with importance, else L
  void run_batch(const Batch& batch, const Tick& tick);
  void see(const Batch& batch, const model::FfnSeen& seen);
  void see_neurons(std::int64_t text, const model::FfnSeen& seen);
  void add_importance(const Batch& batch, const std::vector<at::Tensor>& inputs_BTH, const Tick& tick);

  const model::Model& model_;
  const std::vector<TokenFile>& texts_;
  CalibrateOptions options_;
  CalibrationShape shape_;
  std::vector<std::vector<Window>> windows_D_;
  std::vector<std::int64_t> tokens_D_, sample_token_M_;
  std::vector<std::int32_t> sample_text_M_;
  std::vector<Layer> layers_;
};

}  // namespace upmoe::eval
