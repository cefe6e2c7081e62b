#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace upmoe {

// An open file, or none (-1); the destructor closes it.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Opens for reading. Anything but a regular file (a FIFO, a device, a folder) is refused without blocking on
// it.
FileDescriptor open_regular_file(const std::filesystem::path& path);
std::uint64_t file_size(const FileDescriptor& file, const std::filesystem::path& path);

// What tells whether a file is still the one that it was.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0, bytes = 0;
  std::int64_t modified = 0;  // nanoseconds
  bool operator==(const FileIdentity&) const = default;
  bool is_same_file(const FileIdentity& other) const {  // if perhaps changed
    return device == other.device && inode == other.inode;
  }
};
FileIdentity identity_of(const FileDescriptor& file, const std::filesystem::path& path);
// Of what is at the path, links not followed; none when there is nothing.
std::optional<FileIdentity> identity_at(const std::filesystem::path& path);

// A whole small file; more than `most` bytes is an error that names the file.
std::string read_small_file(const std::filesystem::path& path, std::uint64_t most = 64u << 20);
std::string read_small_file(const FileDescriptor& file, const std::filesystem::path& path,
                            std::uint64_t most);

// Writes all of it from byte `at` of the file on.
void write_at(const FileDescriptor& file, const std::filesystem::path& path, std::uint64_t at,
              std::span<const std::byte> bytes);

// Writes a new file and makes it durable (fsync).
void write_small_file(const std::filesystem::path& path, std::string_view text);

// As rename, but where something has the new name it returns false with EEXIST. File systems that can't (old
// NFS) rename all the same.
bool rename_to_new(const std::filesystem::path& from, const std::filesystem::path& to);

// Makes the entries of a folder durable.
void sync_folder(const std::filesystem::path& folder);

}  // namespace upmoe
