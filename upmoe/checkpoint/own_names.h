#pragma once
#include <string_view>

namespace upmoe {

// What files of a folder are called. Only what bears such a name is ever deleted.

// `checkpoint`: what a checkpoint of ours or of transformers has. `partial`: what a conversion has while it
// runs.
enum class OwnKind { checkpoint, partial };
bool is_own_name(std::string_view name, OwnKind kind);

// An empty file in an old folder that --replace is removing.
inline constexpr const char* kReplacedMark = "upmoe-replaced";

bool is_weights_name(std::string_view name);
bool is_journal_name(std::string_view name);
// Of journals, hashes of ranks, trials: what is no part of an output.
bool is_working_name(std::string_view name);

}  // namespace upmoe
