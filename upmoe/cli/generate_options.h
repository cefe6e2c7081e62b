#pragma once
#include "upmoe/base/options.h"
#include "upmoe/cli/model_flags.h"

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
  bool json = false;
  void visit(auto&& field) {
    field(prompt, "prompt", "text to go on from");
    field(tokens, "tokens", "token ids to go on from, and ids are printed: needs no Python");
    field(chat, "chat", "the prompt is what a user says: apply the checkpoint's chat template");
    field(system, "system", "with --chat, the system's message before it");
    field(max_tokens, "max-tokens", "tokens to generate at most");
    field(temperature, "temperature", "divides the logits before a token is drawn; 0: take the likeliest");
    field(top_k, "top-k", "draw among so many of the likeliest; 0: all");
    field(top_p, "top-p", "draw among the fewest of the likeliest that have this probability together");
    field(seed, "seed", "another one gives another text; the same one the same");
    model.visit(field);
    field(json, "json", "print one JSON object when all is done");
  }
};

inline std::vector<OptionInfo> generate_options() {
  std::vector<OptionInfo> out = describe<GenerateOptions>();
  out.push_back({"prompt-file", "", "read the prompt from this file; -: from standard input", {}, "file"});
  return out;
}

}  // namespace upmoe::cli
