#pragma once
#include "upmoe/cli/model_flags.h"
#include "upmoe/cli/text_flags.h"

namespace upmoe::cli {

// The options of `upmoe verify`, for the engine that has the verb and for the program that lists it.
struct VerifyOptions {
  std::int64_t context = 0, max_tokens = 4096;
  TextFlags text;
  ModelFlags model{.compute = {"fp32", {"auto", "bf16", "fp32"}}};
  bool json = false;
  void visit(auto&& field) {
    field(context, "context", "tokens in a window; 0: the dense model's context, at most 1024");
    field(max_tokens, "max-tokens", "tokens to compare the models on; 0: no limit");
    text.visit(field);
    model.visit(field);
    field(json, "json", "print one JSON object");
  }
};

inline constexpr const char* kVerifyData =
    "text, JSONL or token file, or a folder of texts, on which both models are run and compared";

inline std::vector<OptionInfo> verify_options() {
  std::vector<OptionInfo> out = describe<VerifyOptions>();
  out.push_back({"against", "", "the dense checkpoint that the model was made from", {}, "file"});
  out.push_back({"data", "", kVerifyData, {}, "file"});
  return out;
}

}  // namespace upmoe::cli
