#include "upmoe/checkpoint/own_entries.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/download_notes.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/checkpoint/side_files.h"
#include "upmoe/io/open_folder.h"

namespace upmoe {
namespace {

constexpr std::uint64_t kMostRecordBytes = 256u << 20;

// The folder of chat templates, when nothing but templates is in it.
bool holds_templates_only(int folder) {
  const FileDescriptor templates = open_folder_in(folder, kTemplatesFolder);
  if (templates.get() < 0) return false;
  return std::ranges::all_of(names_in(templates.get()), [&](const std::string& name) {
    struct stat info {};
    return name.ends_with(".jinja") &&
           ::fstatat(templates.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode);
  });
}

std::string what_is(const struct stat& info) {
  if (S_ISDIR(info.st_mode)) return "the folder ";
  if (S_ISLNK(info.st_mode)) return "the link ";
  if (!S_ISREG(info.st_mode)) return "a device, pipe or socket, ";
  return info.st_nlink > 1 ? "a file with another name, " : "";
}

// Whether a file begins as a journal does, as far as it goes, or is gone by now. A power cut may leave zeros,
// and a bit that fell over is the journal's own business.
bool begins_as_journal(int folder, const std::string& name) {
  constexpr std::string_view kBegin = "upmoe-journal ";  // convert/journal
  const FileDescriptor file(::openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.get() < 0) return errno == ENOENT;
  std::array<char, kBegin.size()> text{};
  const ssize_t size = ::pread(file.get(), text.data(), text.size(), 0);
  std::ptrdiff_t others = 0, zeros = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(std::max<ssize_t>(size, 0)); ++i) {
    others += text[i] != kBegin[i];
    zeros += text[i] == 0;
  }
  return size >= 0 && (others <= 1 || zeros == size);
}

// Whether the record of an output (upmoe.json) has a file with these bytes. A record that can't be read has
// none.
bool is_recorded(int folder, const std::string& name) try {
  const auto read = [&](const char* file) {
    const FileDescriptor open(::openat(folder, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    return read_small_file(open, file, kMostRecordBytes);
  };
  const nlohmann::json record = parse_json_object(read("upmoe.json"), "upmoe.json");
  return record.at("output").at("files").at(name) == hex(xxh3(read(name.c_str())));
} catch (const std::exception&) {
  return false;
}

bool is_own(int folder, const std::string& name, const struct stat& info, OwnKind kind) {
  if (name == kTemplatesFolder) return S_ISDIR(info.st_mode) && holds_templates_only(folder);
  if (name == kDownloadNotes)
    return kind == OwnKind::checkpoint && S_ISDIR(info.st_mode) && holds_download_notes_only(folder);
  // A licence under any name is carried; if it is no plain one, it is ours only where a run or a record says
  // so.
  if (is_licence(name) && !is_side_file(name))
    return S_ISREG(info.st_mode) && info.st_nlink == 1 &&
           (kind == OwnKind::partial || is_recorded(folder, name));
  // A file under a second name is somebody's, and a run would write into it.
  if (kind == OwnKind::partial || is_working_name(name))
    return is_own_name(name, OwnKind::partial) && S_ISREG(info.st_mode) && info.st_nlink == 1 &&
           (!is_journal_name(name) || begins_as_journal(folder, name));
  return is_own_name(name, kind) && (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode));
}

}  // namespace

OwnEntries own_entries(const FileDescriptor& folder, OwnKind kind) {
  OwnEntries out;
  const std::vector<std::string> names = names_in(folder.get());
  for (const std::string& name : names) {
    struct stat info {};
    if (::fstatat(folder.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;  // gone by now
    out.has_bytes |= !S_ISREG(info.st_mode) || info.st_size > 0;
    if (is_own(folder.get(), name, info, kind)) {
      out.known.push_back(name);
      out.has_weights |= is_weights_name(name);
      out.has_journal |= is_journal_name(name);
    } else if (out.foreign.empty()) {
      out.foreign = what_is(info) + "'" + printable(name) + "'";
    }
  }
  std::ranges::stable_partition(out.known, [](const std::string& name) { return !is_working_name(name); });
  const auto has = [&](const char* name) { return std::ranges::find(out.known, name) != out.known.end(); };
  out.has_config = has("config.json");
  out.is_replaced = has(kReplacedMark);
  return out;
}

std::vector<std::string> working_files(const FileDescriptor& folder) {
  std::vector<std::string> out = names_in(folder.get());
  std::erase_if(out, [](const std::string& name) { return !is_working_name(name); });
  return out;
}

void remove_known(const FileDescriptor& folder, const OwnEntries& entries,
                  const std::filesystem::path& shown) {
  for (const std::string& name : entries.known) {
    const bool is_templates = name == kTemplatesFolder, is_notes = name == kDownloadNotes;
    if (is_notes) remove_download_notes(folder.get());
    if (is_templates)
      if (const FileDescriptor templates = open_folder_in(folder.get(), kTemplatesFolder);
          templates.get() >= 0)
        for (const std::string& each : names_in(templates.get()))
          if (each.ends_with(".jinja")) ::unlinkat(templates.get(), each.c_str(), 0);
    require(::unlinkat(folder.get(), name.c_str(), is_templates || is_notes ? AT_REMOVEDIR : 0) == 0 ||
                errno == ENOENT,
            "{}: cannot be removed: {}", printable((shown / name).string()), ErrnoText{});
  }
}

}  // namespace upmoe
