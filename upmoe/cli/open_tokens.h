#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "upmoe/data/token_file.h"

namespace upmoe::cli {

struct TextOptions {
  std::string field = "text";   // of a line of a .jsonl
  std::int64_t max_tokens = 0;  // of a text not more are made; 0: all
};

// What `--data X` names, as a token file: X itself where it is one (.bin, .idx), else a text, a .jsonl or a
// folder of such, which Python turns into one that has no name and goes with the TokenFile.
//
// `model`: the checkpoint's folder, whose tokenizer is used.
TokenFile open_tokens(const std::string& data, const std::filesystem::path& model,
                      const TextOptions& options);

}  // namespace upmoe::cli
