#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "upmoe/checkpoint/folder.h"
#include "upmoe/model/llama.h"
#include "upmoe/model/sample.h"

namespace upmoe::model {

// The tokens that a text ends with: eos_token_id of generation_config.json, or else of config.json.
std::vector<std::int64_t> end_tokens(const Folder& folder, const ModelConfig& config);

struct GenerateOptions {
  std::int64_t max_tokens = 128;
  std::vector<std::int64_t> end;  // stops after one of these, which counts as generated
  Sampling sampling;
  std::function<bool()> is_interrupted = [] { return false; };  // asked between passes
};

struct Generated {
  enum class Stop { end_token, max_tokens, context, interrupt };
  std::vector<std::int64_t> tokens;
  Stop stop = Stop::max_tokens;
  double prompt_seconds = 0, seconds = 0;  // until the first token is known; from there to the last
};

// Goes on from the prompt, one token at a time; each is told as soon as it is known. Ends at the latest where
// the model's positions end.
Generated generate(const Model& model, std::span<const std::int64_t> prompt, const GenerateOptions& options,
                   const std::function<void(std::int64_t token)>& on_token = {});

}  // namespace upmoe::model
