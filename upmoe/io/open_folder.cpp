#include "upmoe/io/open_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

// For messages: an open folder has no other name here.
std::string place_of(int folder) {
  std::error_code ignored;
  return printable(std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", folder), ignored).string());
}

}  // namespace

FileDescriptor open_folder(const std::filesystem::path& path) {
  return FileDescriptor(::open(path.c_str(), kFlags));
}

FileDescriptor open_folder_in(int folder, const char* name) {
  const open_how how{.flags = kFlags, .mode = 0, .resolve = RESOLVE_NO_XDEV | RESOLVE_BENEATH};
  const long file = ::syscall(SYS_openat2, folder, name, &how, sizeof how);
  if (file >= 0 || (errno != ENOSYS && errno != EPERM)) return FileDescriptor(static_cast<int>(file));
  // Before Linux 5.6, and in containers that know no newer calls (EPERM), a mount of the same file system
  // can't be told from a folder.
  FileDescriptor inner(::openat(folder, name, kFlags));
  struct stat above {
  }, below{};
  const bool is_mount = inner.get() >= 0 && ::fstat(folder, &above) == 0 &&
                        ::fstat(inner.get(), &below) == 0 && above.st_dev != below.st_dev;
  if (is_mount) errno = EXDEV;
  return is_mount ? FileDescriptor(-1) : std::move(inner);
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
