#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "upmoe/model/llama.h"

namespace upmoe::model {

struct LoadOptions {
  at::Device device = at::kCPU;
  std::optional<at::ScalarType> dtype;    // of the weights in memory; none: as stored, in the mapped file
  std::optional<at::ScalarType> compute;  // of the arithmetic; none: that of the weights
  std::optional<NamedValues> router;      // of routing/, in place of the one that the model was made with
  std::uint64_t router_seed = 0;          // of parameters and tables that only such a router has
};

// Loads a dense Llama or Mistral or any target, with one tensor an expert or all of a layer stacked. On the
// CPU, as stored, weights stay in the mapped file: no second copy. Every weight must be there and none may be
// left over.
Model load(const std::filesystem::path& folder, const LoadOptions& options = {});

// After running a model and before its results are relied on: throws if a file of it became shorter
// meanwhile.
void require_intact(const Model& model);

// What the router of a Mixture of Experts promises.
routing::RouterTraits router_traits(const MoeConfig& config);

// Every weight under its Hugging Face name (with one name an expert, however it is stored), in the model's
// order.
struct NamedWeight {
  std::string name;
  at::Tensor* value;
};
std::vector<NamedWeight> named_weights(Model& model);

// The parameters and buffers that routers have beside that, "model.layers.3.router.NAME".
std::vector<NamedWeight> router_state(Model& model);

}  // namespace upmoe::model
