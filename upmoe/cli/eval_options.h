#pragma once
#include "upmoe/base/options.h"
#include "upmoe/cli/model_flags.h"
#include "upmoe/cli/router_flag.h"
#include "upmoe/cli/text_flags.h"

namespace upmoe::cli {

// The options of `upmoe eval`, for the engine that has the verb and for the program that lists it.
struct EvalOptions {
  std::int64_t context = 0, stride = 0, max_tokens = 0;
  TextFlags text;
  ModelFlags model;
  RouterFlag router;
  bool json = false;
  void visit(auto&& field) {
    field(context, "context", "tokens in a window; 0: the model's context, and for texts at most 2048");
    field(stride, "stride",
          "tokens from the start of one window to the start of the next; 0: the context, so that windows do "
          "not overlap");
    field(max_tokens, "max-tokens", "tokens to read of each text; 0: no limit");
    text.visit(field);
    model.visit(field);
    router.visit(field);
    field(json, "json", "print one JSON object");
  }
};

inline constexpr const char* kEvalData =
    "text, JSONL or token file, or a folder of texts; repeat --data for each further one";
inline constexpr const char* kEvalChoices =
    "JSONL file of multiple-choice questions; repeat --choices for each further one";

inline std::vector<OptionInfo> eval_options() {
  std::vector<OptionInfo> out = describe<EvalOptions>();
  out.push_back({"data", "", kEvalData, {}, "file"});
  out.push_back({"choices", "", kEvalChoices, {}, "file"});
  return out;
}

}  // namespace upmoe::cli
