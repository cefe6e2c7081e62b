#pragma once
#include "upmoe/base/options.h"
#include "upmoe/cli/model_flags.h"

namespace upmoe::cli {

// The options of `upmoe calibrate`, for the engine that has the verb and for the program that lists it.
struct CalibrateFlags {
  std::int64_t context = 0, max_tokens = 16384, batch_tokens = 2048;
  std::int64_t samples = 1024, seed = 0, active = 10;
  Choice active_by = {"magnitude", {"magnitude", "cosine"}};
  Choice co_activation = {"auto", {"auto", "on", "off"}};
  Choice importance = {"auto", {"auto", "on", "off"}};
  bool covariance = false;
  ModelFlags model;
  bool replace = false;
  void visit(auto&& field) {
    field(context, "context", "tokens of a window; 0: the smaller of 2048 and what the model is made for");
    field(max_tokens, "max-tokens", "look at this many tokens of each text at most; 0: at all");
    field(batch_tokens, "batch-tokens",
          "tokens that go through the model at once, about; decides the memory");
    field(samples, "samples", "router inputs that are kept of each layer");
    field(seed, "seed", "decides of which tokens");
    field(active, "active", "neurons of a token that count as active");
    field(active_by, "active-by",
          "what makes them so: the largest values, or those if inputs and weight rows had length 1 (CMoE)");
    field(co_activation, "co-activation",
          "count pairs of neurons; auto: where the tables of all layers take no more than 1 GiB");
    field(importance, "importance",
          "importance of neurons by gradient: about two passes more; auto: of a dense model");
    field(covariance, "covariance", "keep the covariance of the router inputs");
    model.visit(field);
    field(replace, "replace", "replace an existing output");
  }
};

inline std::vector<OptionInfo> calibrate_options() {
  std::vector<OptionInfo> out = describe<CalibrateFlags>();
  out.push_back({"data", "", "text, JSONL or token file, or a folder of texts; one domain each", {}, "file"});
  out.push_back({"output", "", "the statistics, as safetensors", {}, "file"});
  return out;
}

}  // namespace upmoe::cli
