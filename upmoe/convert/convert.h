#pragma once
#include <filesystem>
#include <vector>

#include "upmoe/convert/run.h"

namespace upmoe {

struct Converted {
  RunRecord run;
  std::vector<std::size_t> missing;  // ranks that have yet to finish; the last one completes the output
  bool completed = false;            // by this call; of several ranks that finish together one says so
};

// Carries out a plan and leaves a complete checkpoint folder at `place`: weights, index, config.json,
// tokenizer and other side files, model card, upmoe.json, upmoe-recipe.toml. All of it appears at once, at
// the end; on an error or when cancelled nothing stays, but with options.resume what a later run can go on
// with. What is at `place` is replaced only with plan.request.replace. With several ranks each makes its own
// files; whoever finishes last does the rest.
Converted convert(const Plan& plan, const std::filesystem::path& place, const RunOptions& options);

// Whether the output is there already, whole and made by the same plan, so that a run with options.resume or
// with several ranks has nothing to do. Throws Error when something else is there.
bool is_done(const Plan& plan, const std::filesystem::path& place, const RunOptions& options);

// Throws what convert() would throw before it writes, and writes nothing.
void check_convert(const Plan& plan, const std::filesystem::path& place, const RunOptions& options);

}  // namespace upmoe
