#include "upmoe/format/safetensors_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <tuple>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

void check_place(const fs::path& path, bool replace) {
  const fs::file_status status = fs::symlink_status(path);
  if (!fs::exists(status)) return;
  require(fs::is_regular_file(status), "{}: is there already, and is no file that could be replaced",
          printable(path.string()));
  require(replace, "{}: is there already; --replace replaces it", printable(path.string()));
}

void require_unlocked(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  require(file.get() < 0 || ::flock(file.get(), LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK,
          "{}: another run is writing it", printable(path.string()));
}

// A new file under the first of its names that is free. What has another is foreign or a killed run's: it is
// left alone.
std::pair<fs::path, FileDescriptor> create_partial(const fs::path& path) {
  constexpr int kMostNames = 100;
  fs::path out = path.string() + kPartialEnd;
  for (int number = 2;; ++number) {
    FileDescriptor file(::open(out.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (file.get() >= 0) {
      ::flock(file.get(), LOCK_EX);
      return {out, std::move(file)};
    }
    require(errno == EEXIST && number <= kMostNames, "{}: cannot create: {}", printable(out.string()),
            ErrnoText{});
    require_unlocked(out);
    out = fmt::format("{}.{}{}", path.string(), number, kPartialEnd);
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const fs::path& path, const std::vector<TensorInfo>& tensors,
                                     std::span<const std::pair<std::string, std::string>> metadata,
                                     bool replace)
    : path_(path), replace_(replace) {
  check_place(path_, replace_);
  const std::string header = safetensors_header(tensors, metadata);
  data_begin_ = header.size();
  for (const TensorInfo& tensor : tensors) missing_.emplace(tensor.name, tensor);
  std::error_code error;
  fs::create_directories(fs::absolute(path_).parent_path(), error);  // if it fails, opening says why
  FileDescriptor file(-1);
  std::tie(partial_, file) = create_partial(path_);
  const std::uint64_t bytes = data_begin_ + (tensors.empty() ? 0 : tensors.back().end);
  try {
    check_place(path_, replace_);  // again: another run may have finished just now
    // Where a file system can't reserve (EOPNOTSUPP) the writes will tell.
    const bool reserved = ::fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)) == 0;
    require(reserved || (errno != ENOSPC && errno != EFBIG && errno != EDQUOT), "{}: cannot reserve {}: {}",
            printable(partial_.string()), human_bytes(bytes), ErrnoText{});
    write_at(file, partial_, 0, std::as_bytes(std::span(header)));
  } catch (...) {
    ::unlink(partial_.c_str());
    throw;
  }
  file_ = std::move(file);
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_.get() < 0) return;
  const std::optional<FileIdentity> there = identity_at(partial_);
  if (there && there->is_same_file(identity_of(file_, partial_))) ::unlink(partial_.c_str());
}

void SafetensorsWriter::put(const std::string& name, std::span<const std::byte> data) {
  const auto tensor = missing_.find(name);
  require(tensor != missing_.end(), "{}: tensor '{}' is not expected, or is written twice",
          printable(path_.string()), printable(name));
  require(data.size() == tensor->second.bytes(), "{}: tensor '{}' has {} bytes, expected {}",
          printable(path_.string()), printable(name), data.size(), tensor->second.bytes());
  write_at(file_, partial_, data_begin_ + tensor->second.begin, data);
  missing_.erase(tensor);
}

void SafetensorsWriter::commit() {
  require(missing_.empty(), "{}: tensor '{}' was never written", printable(path_.string()),
          missing_.empty() ? "" : printable(missing_.begin()->first));
  check_place(path_, replace_);  // again: someone may have taken the name in the meantime
  require(::fsync(file_.get()) == 0, "{}: cannot make it durable: {}", printable(partial_.string()),
          ErrnoText{});
  const bool renamed =
      replace_ ? std::rename(partial_.c_str(), path_.c_str()) == 0 : rename_to_new(partial_, path_);
  require(renamed, "{}: cannot give the finished file its name: {}", printable(path_.string()), ErrnoText{});
  file_ = FileDescriptor(-1);
  sync_folder(fs::absolute(path_).parent_path());
}

}  // namespace upmoe
