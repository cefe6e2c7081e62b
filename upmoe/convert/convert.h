#pragma once
#include <filesystem>

#include "upmoe/convert/run.h"

namespace upmoe {

// Carries out a plan and leaves a complete checkpoint folder at `place`: weights, index, config.json,
// tokenizer and other side files, model card, upmoe.json, upmoe-recipe.toml. All of it appears at once, at
// the end; on an error or when cancelled nothing stays. What is at `place` is replaced only with
// plan.request.force.
void convert(const Plan& plan, const std::filesystem::path& place, const RunOptions& options);

}  // namespace upmoe
