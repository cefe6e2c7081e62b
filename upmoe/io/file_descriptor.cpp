#include "upmoe/io/file_descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

std::string name_of(const std::filesystem::path& path) { return printable(path.string()); }

FileIdentity identity_in(const struct stat& info) {
  return {info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size),
          info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor open_regular_file(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  require(file.get() >= 0, "{}: cannot open: {}", name_of(path), ErrnoText{});
  struct stat info {};
  require(::fstat(file.get(), &info) == 0, "{}: cannot stat: {}", name_of(path), ErrnoText{});
  require(S_ISREG(info.st_mode), "{}: not a regular file but {}", name_of(path),
          S_ISDIR(info.st_mode) ? "a folder" : "a device, pipe or socket");
  return file;
}

std::uint64_t file_size(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat info {};
  require(::fstat(file.get(), &info) == 0, "{}: cannot stat: {}", name_of(path), ErrnoText{});
  return static_cast<std::uint64_t>(info.st_size);
}

FileIdentity identity_of(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat info {};
  require(::fstat(file.get(), &info) == 0, "{}: cannot stat: {}", name_of(path), ErrnoText{});
  return identity_in(info);
}

std::optional<FileIdentity> identity_at(const std::filesystem::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0) return identity_in(info);
  require(errno == ENOENT || errno == ENOTDIR, "{}: cannot stat: {}", name_of(path), ErrnoText{});
  return std::nullopt;
}

std::string read_small_file(const std::filesystem::path& path, std::uint64_t most) {
  return read_small_file(open_regular_file(path), path, most);
}

std::string read_small_file(const FileDescriptor& file, const std::filesystem::path& path,
                            std::uint64_t most) {
  const std::uint64_t size = file_size(file, path);
  require(size <= most, "{}: {} bytes, at most {} expected of such a file", name_of(path), size, most);
  std::string text(size, '\0');
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    require(got >= 0, "{}: cannot read: {}", name_of(path), ErrnoText{});
    require(got > 0, "{}: ended after {} of {} bytes; is it being written?", name_of(path), done, size);
    done += static_cast<std::size_t>(got);
  }
  return text;
}

void write_at(const FileDescriptor& file, const std::filesystem::path& path, std::uint64_t at,
              std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (put < 0 && errno == EINTR) continue;
    require(put > 0, "{}: cannot write: {}", name_of(path), ErrnoText{});
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    at += static_cast<std::uint64_t>(put);
  }
}

void write_small_file(const std::filesystem::path& path, std::string_view text) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  require(file.get() >= 0, "{}: cannot create: {}", name_of(path), ErrnoText{});
  write_at(file, path, 0, std::as_bytes(std::span(text)));
  require(::fsync(file.get()) == 0, "{}: cannot make it durable: {}", name_of(path), ErrnoText{});
}

bool rename_to_new(const std::filesystem::path& from, const std::filesystem::path& to) {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0 ||
         ((errno == EINVAL || errno == ENOSYS) && std::rename(from.c_str(), to.c_str()) == 0);
}

void sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  require(file.get() >= 0, "{}: cannot open: {}", name_of(folder), ErrnoText{});
  // Some file systems can't sync a folder (EINVAL); there is nothing better to do on them.
  require(::fsync(file.get()) == 0 || errno == EINVAL, "{}: cannot make it durable: {}", name_of(folder),
          ErrnoText{});
}

}  // namespace upmoe
