#pragma once
#include "upmoe/base/options.h"
#include "upmoe/cli/model_flags.h"
#include "upmoe/cli/text_flags.h"

namespace upmoe::cli {

// The options of `upmoe calibrate`, for the engine that has the verb and for the program that lists it.
struct CalibrateFlags {
  std::int64_t context = 0, max_tokens = 16384, batch_tokens = 2048;
  std::int64_t samples = 1024, seed = 0, active = 10;
  Choice active_by = {"magnitude", {"magnitude", "cosine"}};
  Choice co_activation = {"auto", {"auto", "on", "off"}};
  Choice importance = {"auto", {"auto", "on", "off"}};
  bool covariance = false;
  TextFlags text;
  ModelFlags model;
  bool replace = false;
  void visit(auto&& field) {
    field(context, "context", "tokens in a window; 0: the model's context, at most 2048");
    field(max_tokens, "max-tokens", "tokens to read of each text; 0: no limit");
    field(batch_tokens, "batch-tokens", "tokens in a batch, roughly; larger batches need more memory");
    field(samples, "samples", "router inputs to save for each layer");
    field(seed, "seed", "random seed; it decides for which tokens router inputs are saved");
    field(active, "active", "neurons that count as active for a token");
    field(active_by, "active-by",
          "which neurons are active: those with the largest values, or those that would have them if inputs "
          "and weight rows had length 1 (CMoE)");
    field(co_activation, "co-activation",
          "count which neurons are active together; auto: if the tables of all layers take at most 1 GiB");
    field(importance, "importance",
          "measure the importance of neurons by gradient, in about two more passes; auto: for a dense model");
    field(covariance, "covariance", "save the covariance of the router inputs");
    text.visit(field);
    model.visit(field);
    field(replace, "replace", "replace an existing output");
  }
};

inline constexpr const char* kCalibrateData =
    "text, JSONL or token file, or a folder of texts: one domain; repeat --data for each further one";

inline std::vector<OptionInfo> calibrate_options() {
  std::vector<OptionInfo> out = describe<CalibrateFlags>();
  out.push_back({"data", "", kCalibrateData, {}, "file"});
  out.push_back({"output", "", "safetensors file for the statistics", {}, "file"});
  return out;
}

}  // namespace upmoe::cli
