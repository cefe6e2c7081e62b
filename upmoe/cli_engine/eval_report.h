#pragma once
#include <optional>
#include <string>
#include <vector>

#include "upmoe/base/options.h"
#include "upmoe/eval/choices.h"
#include "upmoe/eval/expert_use.h"
#include "upmoe/eval/perplexity.h"

namespace upmoe::cli {

struct TextResult {
  std::string name;
  eval::Perplexity perplexity;
  std::vector<eval::ExpertUse::Layer> experts;  // empty: a dense model
};

struct ChoicesResult {
  std::string name;
  std::vector<eval::Question> asked;
  eval::Choices found;
};

struct RouterResult {
  std::string name;  // empty: a dense model
  Values options;
  bool is_other = false;  // than the checkpoint's own
  bool causal = true;
};

// What `upmoe eval` has found, of a model and how it was run.
struct EvalReport {
  std::string folder, compute, dtype, device;
  RouterResult router;
  std::string products;  // whose kernels multiply; empty on a GPU
  eval::WindowOptions windows;
  std::vector<TextResult> texts;
  eval::Perplexity all;  // of the texts together
  std::vector<ChoicesResult> choices;
  bool partial = false;  // an interrupt ended it: the last text may be cut, and what came after is missing
};

// Tables, or one object. Throw Error where a number is not finite, and then print nothing.
void print(const EvalReport& report);
void print_json(const EvalReport& report);

}  // namespace upmoe::cli
