#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/dense_weights.h"
#include "upmoe/checkpoint/folder.h"

namespace upmoe {

// A dense Llama or Mistral in a folder, checked: every weight that its configuration calls for is there with
// the right shape and a float type, and nothing else is. Immutable; safe to read from any thread.
class DenseModel {
 public:
  explicit DenseModel(const std::filesystem::path& folder);

  struct Weight {
    DenseWeight is;
    Weights::Entry stored;
  };

  const Folder& folder() const { return folder_; }
  const DenseConfig& config() const { return config_; }
  const std::string& config_text() const { return config_text_; }  // config.json, byte for byte
  const std::vector<Weight>& weights() const { return weights_; }  // in the order of the model
  const Weights& files() const { return files_; }
  const Weight& matrix(std::int64_t layer, Matrix matrix) const;
  const Weight& ffn_norm(std::int64_t layer) const;
  std::uint64_t data_bytes() const;
  std::uint64_t parameters() const;
  // "float32", "bfloat16" or "float16": what config.json says, or else the type of the FFNs.
  std::string torch_dtype() const;

 private:
  void take_weights();
  void refuse_strangers(const std::vector<std::string>& strangers) const;

  Folder folder_;
  std::string config_text_;
  DenseConfig config_;
  Weights files_;
  std::vector<Weight> weights_;
};

}  // namespace upmoe
