#include "upmoe/checkpoint/download_notes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "upmoe/io/open_folder.h"

namespace upmoe {
namespace {

constexpr std::ptrdiff_t kMostLevels = 16;  // of folders; a repository's files are in two or three

bool is_of_a_download(const std::string& path, bool is_folder) {
  const std::string hub = ".cache/huggingface", downloads = hub + "/download";
  if (is_folder) return path == hub || path == downloads || path.starts_with(downloads + "/");
  return path == hub + "/.gitignore" || path == hub + "/CACHEDIR.TAG" ||
         (path.starts_with(downloads + "/") &&
          (path.ends_with(".metadata") || path.ends_with(".lock") || path.ends_with(".incomplete")));
}

// Whether all below a folder is of a download; with `remove`, what is is deleted. `path`: as seen from the
// checkpoint.
bool is_all_of_a_download(int parent, const char* name, const std::string& path, bool remove) {
  if (std::ranges::count(path, '/') > kMostLevels) return false;
  const FileDescriptor folder = open_folder_in(parent, name);
  if (folder.get() < 0) return false;
  bool all = true;
  for (const std::string& each : names_in(folder.get())) {
    struct stat info {};
    const std::string at = path + "/" + each;
    const bool is_known =
        ::fstatat(folder.get(), each.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        (S_ISDIR(info.st_mode) || S_ISREG(info.st_mode)) && is_of_a_download(at, S_ISDIR(info.st_mode)) &&
        (!S_ISDIR(info.st_mode) || is_all_of_a_download(folder.get(), each.c_str(), at, remove));
    if (is_known && remove) ::unlinkat(folder.get(), each.c_str(), S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0);
    all &= is_known;
  }
  return all;
}

}  // namespace

bool holds_download_notes_only(int checkpoint) {
  return is_all_of_a_download(checkpoint, kDownloadNotes, kDownloadNotes, /*remove=*/false);
}

void remove_download_notes(int checkpoint) {
  is_all_of_a_download(checkpoint, kDownloadNotes, kDownloadNotes, /*remove=*/true);
}

}  // namespace upmoe
