#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace upmoe {

// What a checkpoint folder is, from its config.json, its headers and, for a Mixture of Experts, a look at its
// experts.
struct Inspection {
  std::string model_type;
  std::int64_t num_layers = 0, num_experts = 0, top_k = 0;  // experts and top-k are 0 for a dense model
  std::int64_t hidden_size = 0, expert_size = 0;
  std::string dtype;                            // of most of the parameters: "BF16"
  std::map<std::string, std::uint64_t> dtypes;  // parameters of each
  std::uint64_t parameters = 0, active_parameters = 0;
  std::size_t num_shards = 0;
  bool tied = false;
  bool fused = false;  // experts stacked in one tensor, as mergekit writes them

  // Of the experts. Identical: byte for byte, in all three matrices and in every layer.
  std::vector<std::vector<std::int64_t>> identical_experts;  // groups of two or more
  std::int64_t layers_with_identical = 0;                    // in which at least two are
  struct Likeness {
    double mean = 0, least = 0, most = 0;  // cosine over pairs of experts
  };
  // Where NaN or Inf stands among the numbers that were looked at, the first of each layer; then there is
  // neither likeness nor routers. That there is none says nothing of the others.
  std::vector<std::string> not_finite;
  std::string looked_at;  // for not_finite, in words; empty: nothing was
  std::optional<Likeness> likeness;
  struct Routers {
    double std_mean = 0, std_least = 0, std_most = 0;  // of the weights, over layers
    double logit_std = 0;  // mean over layers of std * |gamma|: what the logits start with
  };
  std::optional<Routers> routers;
  std::string provenance;  // upmoe.json, as it stands; empty when there is none
};

// Looks at a dense Llama or Mistral, or at any Mixtral folder. Experts' likeness is taken from up to `rows`
// rows of each matrix, evenly spread, so that large models answer fast; whether they are identical from every
// byte.
Inspection inspect(const std::filesystem::path& folder, std::int64_t rows = 64, std::size_t threads = 1);

}  // namespace upmoe
