#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "upmoe/model/llama.h"

// Shape letters: N tokens, H hidden size, F neurons, A active ones of a token.
namespace upmoe::eval {

// The A neurons of each token whose values are largest in size, of equals the first; ascending. Values must
// be finite.
std::vector<std::int32_t> most_active(const at::Tensor& value_NF, std::int64_t A);

// silu(x̂ ĝᵀ) * (x̂ ûᵀ): what a neuron would do if x and its rows of gate and up had length 1. CMoE,
// arXiv:2502.04416.
at::Tensor cosine_neurons(const model::Ffn& ffn, const at::Tensor& in_NH);

// How often each neuron is active, and each pair together.
class ActiveCounts {
 public:
  ActiveCounts(std::int64_t texts, std::int64_t neurons, bool pairs);
  void add(std::int64_t text, const std::vector<std::int32_t>& active_NA, std::int64_t A);

  const std::vector<std::int64_t>& active_DF() const { return active_DF_; }
  std::vector<std::int32_t> together_FF() const;  // symmetric; the diagonal is active

 private:
  std::size_t neurons_;
  std::vector<std::int64_t> active_DF_;
  std::vector<std::int32_t> upper_FF_;  // i <= j; empty: pairs are not counted
};

}  // namespace upmoe::eval
