#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// Of a folder that is no link; holds -1, with errno, if there is none.
FileDescriptor open_folder(const std::filesystem::path& path);
// Of one in an open folder, that is no mount either: what is in it is in the folder.
FileDescriptor open_folder_in(int folder, const char* name);

// The names of what is in an open folder, sorted. Throws Error if they can't be read.
std::vector<std::string> names_in(int folder);

}  // namespace upmoe
