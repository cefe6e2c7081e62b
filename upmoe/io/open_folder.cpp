#include "upmoe/io/open_folder.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

// For messages: an open folder has no other name here.
std::string place_of(int folder) {
  std::error_code ignored;
  return printable(std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", folder), ignored).string());
}

}  // namespace

FileDescriptor open_folder_in(int folder, const char* name) {
  return FileDescriptor(::openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

FileDescriptor open_folder(const std::filesystem::path& path) {
  return open_folder_in(AT_FDCWD, path.c_str());
}

std::vector<std::string> names_in(int folder) {
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> open(copy < 0 ? nullptr : ::fdopendir(copy), ::closedir);
  const int reason = errno;
  require(open != nullptr, "{}: cannot read the folder: {}", place_of(folder), std::strerror(reason));
  std::vector<std::string> out;
  while (const dirent* entry = ::readdir(open.get()))
    if (const std::string name = entry->d_name; name != "." && name != "..") out.push_back(name);
  std::ranges::sort(out);
  return out;
}

}  // namespace upmoe
