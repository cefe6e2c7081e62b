#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "upmoe/eval/choices.h"

namespace upmoe::cli {

// The questions of a JSONL file, which Python turns into token ids by the tokenizer in the model's folder.
// Throws Error that names the line.
std::vector<eval::Question> read_questions(const std::string& file, const std::filesystem::path& model);

}  // namespace upmoe::cli
