#pragma once
#include "upmoe/base/options.h"
#include "upmoe/cli/model_flags.h"

namespace upmoe::cli {

// The options of `upmoe eval`, for the engine that has the verb and for the program that lists it.
struct EvalOptions {
  std::int64_t context = 0, stride = 0, max_tokens = 0;
  ModelFlags model;
  bool json = false;
  void visit(auto&& field) {
    field(context, "context",
          "tokens that the model sees at once; 0: what it is made for, of a text at most 2048");
    field(stride, "stride",
          "tokens from one window to the next; 0: the context, so that windows do not overlap");
    field(max_tokens, "max-tokens", "look at this many tokens of each text at most; 0: at all");
    model.visit(field);
    field(json, "json", "print one JSON object");
  }
};

inline std::vector<OptionInfo> eval_options() {
  std::vector<OptionInfo> out = describe<EvalOptions>();
  out.push_back({"data",
                 "",
                 "text, JSONL or token file, or a folder of texts; may be given several times",
                 {},
                 "file"});
  out.push_back(
      {"choices", "", "JSONL of multiple-choice questions; may be given several times", {}, "file"});
  return out;
}

}  // namespace upmoe::cli
