#pragma once
#include <filesystem>

#include "upmoe/convert/plan.h"

namespace upmoe {

// Whether the whole output of this plan is at `place` already: by its upmoe.json, by the sizes of its
// weights, and by the source's files, none of which is newer. No weight is read. False when there is no
// output with a record; throws Error with the difference when another conversion has made it.
bool is_finished(const Plan& plan, const std::filesystem::path& place);

}  // namespace upmoe
