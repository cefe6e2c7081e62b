#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "upmoe/data/token_file.h"

namespace upmoe::cli {

// What `--data X` names, as a token file: X itself where it is one (.bin, .idx), else a text, a .jsonl or a
// folder of such, which Python turns into one that has no name and goes with the TokenFile.
//
// `model`: the checkpoint's folder, whose tokenizer is used. Of a text not more than `max_tokens` (0: all)
// are made.
TokenFile open_tokens(const std::string& data, const std::filesystem::path& model, std::int64_t max_tokens);

}  // namespace upmoe::cli
