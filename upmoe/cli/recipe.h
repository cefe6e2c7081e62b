#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/base/options.h"

namespace upmoe::cli {

// The options that a recipe (TOML, docs/formats.md) sets, as text. A key that isn't in `known` is a
// UsageError with a guess; those in `unnamed` are known too, and not told. Those in `lists` may be a list of
// texts, which are joined by commas. `where` is the file, for messages.
Values parse_recipe(std::string_view text, std::string_view where, const std::vector<std::string>& known,
                    const std::vector<std::string>& lists = {}, const std::vector<std::string>& unnamed = {});

}  // namespace upmoe::cli
