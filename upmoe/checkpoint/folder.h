#pragma once
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/format/safetensors.h"

namespace upmoe {

// A checkpoint folder of a stranger. A name from it is only ever opened after it is known to be a plain name
// of a regular file that lies in the folder itself (or, in a Hugging Face cache, in the repository's blobs).
class Folder {
 public:
  explicit Folder(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  bool has(std::string_view name) const;
  // The checked path of a file. `named_by` says who named it, for the message.
  std::filesystem::path file(std::string_view name, std::string_view named_by) const;
  // The text of its config.json.
  std::string config() const;
  // A folder in this one, which must not be a link; its links may end where those of this one may.
  Folder folder(std::string_view name) const;
  // Names of all in the folder that is no folder, sorted; file() says which of them may be opened.
  std::vector<std::string> names() const;

 private:
  std::filesystem::path path_;
  std::vector<std::filesystem::path> roots_;  // canonical folders that a link may end in
};

// The weights of a checkpoint: one model.safetensors, or the shards that an index names. Spans of them must
// not outlive it. Immutable, so safe to read from any thread.
class Weights {
 public:
  // Resolves as transformers does: model.safetensors first, then model.safetensors.index.json. Refuses an
  // index that disagrees with its shards, a tensor that stands in two of them, and pickled weights.
  explicit Weights(const Folder& folder);

  struct Entry {
    const SafetensorsFile* file;
    const TensorInfo* info;
    std::span<const std::byte> data() const { return file->data(*info); }
  };
  // By name, sorted.
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }
  std::size_t num_shards() const { return files_.size(); }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  std::size_t file_number(const Entry& entry) const {
    return static_cast<std::size_t>(entry.file - files_.data());
  }
  // After reading data of entries: throws if a file became shorter meanwhile.
  void require_intact() const {
    for (const SafetensorsFile& file : files_) file.require_intact();
  }
  const std::vector<std::string>& shard_names() const { return names_; }

 private:
  std::vector<std::string> names_;
  std::vector<SafetensorsFile> files_;  // in the order of names_; never changed after the constructor
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace upmoe
