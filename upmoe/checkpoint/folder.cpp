#include "upmoe/checkpoint/folder.h"

#include <algorithm>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/index.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSingle = "model.safetensors", kIndex = "model.safetensors.index.json";

bool lies_in(const fs::path& file, const fs::path& folder) {
  const auto [end, ignored] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return end == folder.end();
}

constexpr const char* kGguf =
    "the weights are GGUF ({}); convert them first: transformers from_pretrained(..., gguf_file=...), then "
    "save_pretrained";

[[noreturn]] void fail_for_a_file(const fs::path& path) {
  const std::string where = printable(path.string()), name = printable(path.filename().string());
  if (path.extension() == ".gguf") fail("{}: {}", where, fmt::format(kGguf, name));
  fail("{}: not a folder{}", where,
       path.extension() == ".safetensors" ? "; name the folder that has it and its config.json" : "");
}

// What git checks out of a large file where Git LFS is not installed.
void refuse_lfs_pointer(const fs::path& path) {
  constexpr std::string_view kBegin = "version https://git-lfs.github.com/spec/";
  std::error_code error;
  require(fs::file_size(path, error) > 1024 || error || !read_small_file(path, 1024).starts_with(kBegin),
          "{}: is a Git LFS pointer, not the weights; get them with `git lfs pull`",
          printable(path.string()));
}

[[noreturn]] void fail_without_weights(const Folder& folder) {
  const std::string where = printable(folder.path().string());
  for (const std::string& name : folder.names()) {
    if (name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt"))
      fail(
          "{}: the weights are pickled ({}), which can run code when read; convert them first: load with "
          "transformers and "
          "save_pretrained(..., safe_serialization=True)",
          where, printable(name));
    if (name.ends_with(".gguf")) fail("{}: {}", where, fmt::format(kGguf, printable(name)));
  }
  fail("{}: has neither {} nor {}; is this a checkpoint folder?", where, kSingle, kIndex);
}

}  // namespace

Folder::Folder(const fs::path& path) : path_(path) {
  std::error_code error;
  const fs::path canonical = fs::canonical(path, error);
  require(!error, "{}: {}", printable(path.string()), error.message());
  if (!fs::is_directory(canonical, error)) fail_for_a_file(path);
  roots_.push_back(canonical);
  // In the cache of huggingface_hub a snapshot's files are links: models--x/snapshots/REV/f ->
  // models--x/blobs/HASH.
  const fs::path blobs = canonical.parent_path().parent_path() / "blobs";
  // Blobs that were a link themselves could be any folder of ours.
  if (canonical.parent_path().filename() == "snapshots" &&
      fs::symlink_status(blobs, error).type() == fs::file_type::directory)
    roots_.push_back(blobs);
}

bool Folder::has(std::string_view name) const {
  std::error_code error;
  return fs::symlink_status(path_ / name, error).type() > fs::file_type::not_found;
}

fs::path Folder::file(std::string_view name, std::string_view named_by) const {
  require_plain_name(name, named_by);
  fs::path path = path_ / name;
  std::error_code error;
  const fs::path target = fs::canonical(path, error);
  require(!error, "{}: names '{}', which is not there: {}", printable(named_by), printable(name),
          error.message());
  require(std::ranges::any_of(roots_, [&](const fs::path& root) { return lies_in(target, root); }),
          "{}: is a link that leads out of the folder, to {}", printable(path.string()),
          printable(target.string()));
  require(fs::is_regular_file(target, error), "{}: not a regular file", printable(path.string()));
  return path;
}

std::string Folder::config() const {
  const std::string where = path_.string();
  require(has("config.json"), "{}: has no config.json; is this a checkpoint folder?", printable(where));
  return read_small_file(file("config.json", where), 4u << 20);
}

Folder Folder::folder(std::string_view name) const {
  require_plain_name(name, path_.string());
  Folder out = *this;
  out.path_ /= name;
  std::error_code error;
  require(fs::symlink_status(out.path_, error).type() == fs::file_type::directory, "{}: not a folder",
          printable(out.path_.string()));
  return out;
}

std::vector<std::string> Folder::names() const {
  std::vector<std::string> out;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    std::error_code error;
    if (!entry.is_directory(error)) out.push_back(entry.path().filename().string());
  }
  std::ranges::sort(out);
  return out;
}

Weights::Weights(const Folder& folder) {
  WeightMap map;
  const std::string index = (folder.path() / kIndex).string();
  if (folder.has(kSingle)) {
    names_.emplace_back(kSingle);
  } else if (folder.has(kIndex)) {
    map = parse_index(read_small_file(folder.file(kIndex, index), 64u << 20), index);
    std::set<std::string> files;
    for (const auto& [tensor, file] : map) files.insert(file);
    names_.assign(files.begin(), files.end());
  } else {
    fail_without_weights(folder);
  }
  files_.reserve(names_.size());
  for (const std::string& name : names_) {
    const fs::path path = folder.file(name, names_.front() == kSingle ? folder.path().string() : index);
    refuse_lfs_pointer(path);
    files_.emplace_back(path);
  }

  for (std::size_t f = 0; f < files_.size(); ++f) {
    for (const TensorInfo& info : files_[f].tensors()) {
      const auto [it, is_new] = entries_.emplace(info.name, Entry{&files_[f], &info});
      require(is_new, "{}: tensor '{}' is in two shards", printable(folder.path().string()),
              printable(info.name));
      if (map.empty()) continue;
      const auto listed = map.find(info.name);
      require(listed != map.end() && listed->second == names_[f],
              "{}: tensor '{}' is in {}, the index says {}", printable(index), printable(info.name),
              names_[f], listed == map.end() ? "nothing of it" : printable(listed->second));
    }
  }
  for (const auto& [tensor, file] : map)
    require(entries_.contains(tensor),
            "{}: the index says that tensor '{}' is in {}, but it is not; is the download complete?",
            printable(index), printable(tensor), printable(file));
}

}  // namespace upmoe
