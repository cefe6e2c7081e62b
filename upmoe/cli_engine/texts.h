#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "upmoe/cli/open_tokens.h"
#include "upmoe/cli/text_flags.h"
#include "upmoe/model/llama.h"

namespace upmoe::cli {

// What the user's files are called in a table: the name without folder and ending, or the path as it was
// given where two would be called the same.
std::vector<std::string> names_of(const std::vector<std::string>& files);

// Of each file its tokens, all of them in the model's vocabulary. `folder`: the model's.
std::vector<TokenFile> open_texts(const std::vector<std::string>& files, const std::filesystem::path& folder,
                                  const model::Model& model, const TextOptions& options);

// Tokens of a window: `asked`, or where that is 0 the smaller of `preset` and the model's context. Throws
// UsageError for more than the model's context, unless that is allowed.
std::int64_t context_of(const model::Model& model, std::int64_t asked, std::int64_t preset,
                        const TextFlags& flags);

}  // namespace upmoe::cli
