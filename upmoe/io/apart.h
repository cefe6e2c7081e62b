#pragma once
#include <filesystem>

namespace upmoe {

// An output is never an input: throws Error when one of the two is the other or lies in it, also through
// links and mounts (by device and inode). Neither has to exist.
void require_apart(const std::filesystem::path& output, const std::filesystem::path& input);

}  // namespace upmoe
