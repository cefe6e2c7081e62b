#pragma once
#include "upmoe/cli/model_flags.h"

namespace upmoe::cli {

// The options of `upmoe verify`, for the engine that has the verb and for the program that lists it.
struct VerifyOptions {
  std::int64_t context = 0, max_tokens = 4096;
  ModelFlags model{.compute = {"fp32", {"auto", "bf16", "fp32"}}};
  bool json = false;
  void visit(auto&& field) {
    field(context, "context", "tokens of a window; 0: the smaller of 1024 and what the model is made for");
    field(max_tokens, "max-tokens", "compare on this many tokens at most; 0: on all");
    model.visit(field);
    field(json, "json", "print one JSON object");
  }
};

inline std::vector<OptionInfo> verify_options() {
  std::vector<OptionInfo> out = describe<VerifyOptions>();
  out.push_back({"against", "", "the dense checkpoint that it was made of", {}, "file"});
  out.push_back(
      {"data", "", "text, JSONL or token file, or a folder of texts: run both models on it", {}, "file"});
  return out;
}

}  // namespace upmoe::cli
