#pragma once
#include "upmoe/base/options.h"
#include "upmoe/cli/model_flags.h"
#include "upmoe/cli/router_flag.h"

namespace upmoe::cli {

// The options of `upmoe generate`, for the engine that has the verb and for the program that lists it.
struct GenerateOptions {
  std::string prompt, tokens, system;
  bool chat = false;
  std::int64_t max_tokens = 128;
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 1;
  std::int64_t seed = 0;
  ModelFlags model;
  RouterFlag router;
  Choices allow{{}, {"noncausal"}};
  bool json = false;
  void visit(auto&& field) {
    field(prompt, "prompt", "text to continue");
    field(tokens, "tokens", "token ids to continue; the new ids are printed, and Python is not needed");
    field(chat, "chat", "send the prompt as a user's message, by the checkpoint's chat template");
    field(system, "system", "with --chat: the system message before the prompt");
    field(max_tokens, "max-tokens", "largest number of new tokens");
    field(temperature, "temperature",
          "sampling temperature; 0: greedy, always the most likely token. Not given, it is 1 with --top-k or "
          "--top-p");
    field(top_k, "top-k", "sample from the k most likely tokens; 0: no limit");
    field(top_p, "top-p",
          "sample from the smallest set of most likely tokens with this probability in all; 1: no limit");
    field(seed, "seed", "random seed; the same seed gives the same text");
    model.visit(field);
    router.visit(field);
    field(allow, "allow", "noncausal: accept a router whose choice of experts depends on later tokens");
    field(json, "json", "print one JSON object at the end");
  }
};

inline constexpr const char* kPromptFile = "file to read the prompt from; -: standard input";

inline std::vector<OptionInfo> generate_options() {
  std::vector<OptionInfo> out = describe<GenerateOptions>();
  out.push_back({"prompt-file", "", kPromptFile, {}, "file"});
  return out;
}

}  // namespace upmoe::cli
