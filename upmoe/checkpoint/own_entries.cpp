#include "upmoe/checkpoint/own_entries.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/side_files.h"

namespace upmoe {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"config.json", "model.safetensors.index.json",
                                                    "upmoe.json", "upmoe-recipe.toml", "README.md"};
// With # for a number.
constexpr std::array<std::string_view, 2> kWeights = {"model.safetensors", "model-#-of-#.safetensors"};
// What else transformers and the hub put into a checkpoint's folder, and we never do.
constexpr std::array<std::string_view, 2> kOthersNames = {".gitattributes", "pytorch_model.bin.index.json"};
constexpr std::array<std::string_view, 4> kOthersWeights = {"pytorch_model.bin", "pytorch_model-#-of-#.bin",
                                                            "consolidated.safetensors",
                                                            "consolidated-#-of-#.safetensors"};
constexpr const char* kCacheFolder = ".cache";  // with huggingface/ in it, where a download notes what it did
constexpr std::array<std::string_view, 2> kJournals = {"upmoe-journal", "upmoe-journal-#-of-#"};
constexpr std::array<std::string_view, 4> kWorking = {"upmoe-rank-#-of-#.json", "upmoe-rank-#-of-#.json.new",
                                                      "upmoe-finishing", "upmoe-reflink-trial"};

// The name with # for each run of digits; a # of its own is no number.
std::string without_numbers(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const bool is_digit = '0' <= c && c <= '9';
    if (!is_digit)
      out += c == '#' ? '?' : c;
    else if (!out.ends_with('#'))
      out += '#';
  }
  return out;
}

bool is_one_of(std::string_view name, std::span<const std::string_view> patterns) {
  return std::ranges::find(patterns, without_numbers(name)) != patterns.end();
}

// As mkostemp makes it (io/block_file): six letters and digits.
bool is_reflink_trial(std::string_view name) {
  constexpr std::string_view kBegin = "upmoe-reflink-trial-";
  return name.starts_with(kBegin) && name.size() == kBegin.size() + 6 &&
         std::ranges::all_of(name.substr(kBegin.size()),
                             [](unsigned char c) { return c < 128 && std::isalnum(c) != 0; });
}

bool is_working(std::string_view name) {
  return is_one_of(name, kJournals) || is_one_of(name, kWorking) || is_reflink_trial(name);
}

// For messages: an open folder has no other name here.
std::string place_of(int folder) {
  std::error_code ignored;
  return printable(std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", folder), ignored).string());
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

FileDescriptor open_in(int folder, const char* name) {
  return FileDescriptor(::openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// The folder of chat templates, when nothing but templates is in it.
bool holds_templates_only(int folder) {
  const FileDescriptor templates = open_in(folder, kTemplatesFolder);
  if (templates.get() < 0) return false;
  return std::ranges::all_of(names_in(templates.get()), [&](const std::string& name) {
    struct stat info {};
    return name.ends_with(".jinja") &&
           ::fstatat(templates.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode);
  });
}

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
  const FileDescriptor folder = open_in(parent, name);
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

std::string what_is(const struct stat& info) {
  if (S_ISDIR(info.st_mode)) return "the folder ";
  if (S_ISLNK(info.st_mode)) return "the link ";
  if (!S_ISREG(info.st_mode)) return "a device, pipe or socket, ";
  return info.st_nlink > 1 ? "a file with another name, " : "";
}

// Whether a file begins as a journal does, as far as it goes. A power cut may leave zeros, and a bit that
// fell over is the journal's own business.
bool begins_as_journal(int folder, const std::string& name) {
  constexpr std::string_view kBegin = "upmoe-journal ";  // convert/journal
  const FileDescriptor file(::openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  std::array<char, kBegin.size()> text{};
  const ssize_t size = file.get() < 0 ? -1 : ::pread(file.get(), text.data(), text.size(), 0);
  std::ptrdiff_t others = 0, zeros = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(std::max<ssize_t>(size, 0)); ++i) {
    others += text[i] != kBegin[i];
    zeros += text[i] == 0;
  }
  return size >= 0 && (others <= 1 || zeros == size);
}

bool is_own(int folder, const std::string& name, const struct stat& info, OwnKind kind) {
  if (name == kTemplatesFolder) return S_ISDIR(info.st_mode) && holds_templates_only(folder);
  if (name == kCacheFolder)
    return kind == OwnKind::checkpoint && S_ISDIR(info.st_mode) &&
           is_all_of_a_download(folder, kCacheFolder, name, /*remove=*/false);
  // A file under a second name is somebody's, and a run would write into it.
  if (kind == OwnKind::partial || is_working(name))
    return is_own_name(name, OwnKind::partial) && S_ISREG(info.st_mode) && info.st_nlink == 1 &&
           (!is_one_of(name, kJournals) || begins_as_journal(folder, name));
  return is_own_name(name, kind) && (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode));
}

}  // namespace

bool is_own_name(std::string_view name, OwnKind kind) {
  return std::ranges::find(kNames, name) != kNames.end() || is_one_of(name, kWeights) || is_side_file(name) ||
         (kind == OwnKind::partial ? is_working(name)
                                   : std::ranges::find(kOthersNames, name) != kOthersNames.end() ||
                                         is_one_of(name, kOthersWeights));
}

OwnEntries own_entries(const FileDescriptor& folder, OwnKind kind) {
  OwnEntries out;
  const std::vector<std::string> names = names_in(folder.get());
  for (const std::string& name : names) {
    struct stat info {};
    if (::fstatat(folder.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;  // gone by now
    out.has_bytes |= !S_ISREG(info.st_mode) || info.st_size > 0;
    if (is_own(folder.get(), name, info, kind)) {
      out.known.push_back(name);
      out.has_weights |= is_one_of(name, kWeights) || is_one_of(name, kOthersWeights);
      out.has_journal |= is_one_of(name, kJournals);
    } else if (out.foreign.empty()) {
      out.foreign = what_is(info) + "'" + printable(name) + "'";
    }
  }
  const auto has = [&](const char* name) { return std::ranges::find(out.known, name) != out.known.end(); };
  out.has_config = has("config.json");
  out.has_journal |= has("upmoe.json") && has("upmoe-recipe.toml");
  return out;
}

std::vector<std::string> working_files(const FileDescriptor& folder) {
  std::vector<std::string> out = names_in(folder.get());
  std::erase_if(out, [](const std::string& name) { return !is_working(name); });
  return out;
}

void remove_known(const FileDescriptor& folder, const OwnEntries& entries,
                  const std::filesystem::path& shown) {
  for (const std::string& name : entries.known) {
    const bool is_templates = name == kTemplatesFolder, is_cache = name == kCacheFolder;
    if (is_cache) is_all_of_a_download(folder.get(), kCacheFolder, name, /*remove=*/true);
    if (is_templates)
      if (const FileDescriptor templates = open_in(folder.get(), kTemplatesFolder); templates.get() >= 0)
        for (const std::string& each : names_in(templates.get()))
          if (each.ends_with(".jinja")) ::unlinkat(templates.get(), each.c_str(), 0);
    require(::unlinkat(folder.get(), name.c_str(), is_templates || is_cache ? AT_REMOVEDIR : 0) == 0 ||
                errno == ENOENT,
            "{}: cannot be removed: {}", printable((shown / name).string()), ErrnoText{});
  }
}

FileDescriptor open_folder(const std::filesystem::path& path) { return open_in(AT_FDCWD, path.c_str()); }

}  // namespace upmoe
