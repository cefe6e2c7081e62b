#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "upmoe/checkpoint/folder.h"
#include "upmoe/target/target.h"

namespace upmoe {

// A matrix as it is stored. Lives as long as the file it is mapped from.
struct View {
  Dtype dtype;
  std::int64_t rows, cols;
  std::span<const std::byte> bytes;

  std::span<const std::byte> row(std::int64_t r) const {
    const auto size = static_cast<std::size_t>(cols * bits(dtype) / 8);
    return bytes.subspan(static_cast<std::size_t>(r) * size, size);
  }
};

// The weights of a Mixture of Experts, by what they are instead of by name: with one tensor for each expert
// or with all of a layer stacked. Keeps references to `weights` and `target`. `where`: for messages.
class MoeWeights {
 public:
  MoeWeights(const Weights& weights, const Target& target, const nlohmann::json& config, std::string where);

  const MoeShape& shape() const { return shape_; }
  std::int64_t H() const { return H_; }
  std::int64_t num_layers() const { return num_layers_; }
  bool stacked() const { return stacked_; }

  View expert(std::int64_t l, std::int64_t e, Matrix matrix) const;
  View router(std::int64_t l) const;
  View ffn_norm(std::int64_t l) const;
  // Of the tensors that experts and router of a layer are stored in.
  std::vector<std::string> names(std::int64_t l) const;

 private:
  View find(const std::string& name, const std::vector<std::int64_t>& shape) const;

  const Weights& weights_;
  const Target& target_;
  MoeShape shape_;
  std::string where_;
  std::int64_t H_ = 0, num_layers_ = 0;
  bool stacked_ = false;
};

}  // namespace upmoe
