#include "upmoe/io/block_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

FileDescriptor open(const std::filesystem::path& path, BlockFile::Open how, std::atomic<bool>& direct) {
  const bool is_new = how == BlockFile::Open::create;
  const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (is_new ? O_EXCL : 0);
  int fd = ::open(path.c_str(), flags | O_DIRECT, 0666);
  if (fd < 0 && errno == EINVAL) {  // tmpfs and others refuse direct I/O
    direct = false;
    if (is_new) ::unlink(path.c_str());  // some have created it all the same
    fd = ::open(path.c_str(), flags, 0666);
  }
  require(fd >= 0, "{}: cannot create: {}", printable(path.string()), ErrnoText{});
  return FileDescriptor(fd);
}

// 0, or what errno says.
int clone_range(int fd, std::uint64_t from, std::uint64_t to, std::uint64_t bytes) {
  const file_clone_range range{fd, from, bytes, to};
  return ::ioctl(fd, FICLONERANGE, &range) == 0 ? 0 : errno;
}

std::uint64_t aligned(std::uint64_t size) {
  return (size + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

}  // namespace

BlockFile::BlockFile(const std::filesystem::path& path, std::uint64_t bytes, Open how, bool reserve)
    : path_(path), bytes_(bytes), file_(open(path, how, direct_)) {
  // Asked first: ext4 fills the disk to the last block before it says that a reservation is too large.
  struct statvfs disk {};
  struct stat there {};
  const bool known =
      ::fstatvfs(file_.get(), &disk) == 0 && disk.f_blocks > 0 && ::fstat(file_.get(), &there) == 0;
  require(!known || S_ISREG(there.st_mode), "{}: not a regular file", printable(path.string()));
  if (!reserve) {
    require(::ftruncate(file_.get(), static_cast<off_t>(bytes)) == 0, "{}: cannot set its size: {}",
            printable(path.string()), ErrnoText{});
    return;
  }
  const std::uint64_t free =
      std::uint64_t{disk.f_bavail} * disk.f_frsize + static_cast<std::uint64_t>(there.st_blocks) * 512;
  require(!known || bytes <= free, "{}: cannot reserve {}: {} are free", printable(path.string()),
          human_bytes(bytes), human_bytes(free));
  const bool reserved = bytes == 0 || ::fallocate(file_.get(), 0, 0, static_cast<off_t>(bytes)) == 0;
  // EOPNOTSUPP: this file system can't reserve; then the writes will tell.
  require(reserved || errno == EOPNOTSUPP, "{}: cannot reserve {}: {}", printable(path.string()),
          human_bytes(bytes), ErrnoText{});
}

// Accepted at open, refused later (some network and FUSE file systems). Several threads may find out at once.
bool BlockFile::refuses_direct(bool direct) {
  if (errno != EINVAL || !direct) return false;
  require(::fcntl(file_.get(), F_SETFL, 0) == 0, "{}: cannot leave direct I/O: {}", printable(path_.string()),
          ErrnoText{});
  direct_ = false;
  return true;
}

void BlockFile::write(std::uint64_t at, std::span<std::byte> block) {
  std::size_t size = block.size();
  if (direct_) {
    size = aligned(size);
    std::memset(block.data() + block.size(), 0, size - block.size());
  }
  for (std::size_t done = 0; done < size;) {
    const bool direct = direct_;
    const ssize_t put =
        ::pwrite(file_.get(), block.data() + done, size - done, static_cast<off_t>(at + done));
    if (put < 0 && (errno == EINTR || refuses_direct(direct))) continue;
    require(put > 0, "{}: cannot write at byte {}: {}", printable(path_.string()), at + done, ErrnoText{});
    done += static_cast<std::size_t>(put);
  }
  if (direct_) return;
  // Start this block on its way to the disk, and let go of the pages of those that have arrived.
  constexpr std::uint64_t kBehind = 8 * kBlockBytes;
  ::sync_file_range(file_.get(), static_cast<off_t>(at), static_cast<off_t>(size), SYNC_FILE_RANGE_WRITE);
  if (at >= kBehind) {
    const auto place = static_cast<off_t>(at - kBehind);
    ::sync_file_range(file_.get(), place, kBlockBytes,
                      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    ::posix_fadvise(file_.get(), place, kBlockBytes, POSIX_FADV_DONTNEED);
  }
}

bool BlockFile::read(std::uint64_t at, std::span<std::byte> block) {
  for (std::size_t done = 0; done < block.size();) {
    const bool direct = direct_;
    const std::size_t size = direct ? aligned(block.size() - done) : block.size() - done;
    const ssize_t got = ::pread(file_.get(), block.data() + done, size, static_cast<off_t>(at + done));
    if (got < 0 && (errno == EINTR || refuses_direct(direct))) continue;
    require(got >= 0, "{}: cannot read at byte {}: {}", printable(path_.string()), at + done, ErrnoText{});
    if (got == 0 || (direct && static_cast<std::size_t>(got) < block.size() - done)) return false;
    done += static_cast<std::size_t>(got);
  }
  return true;
}

void BlockFile::share(std::uint64_t from, std::uint64_t to, std::uint64_t bytes) {
  const int error = clone_range(file_.get(), from, to, bytes);
  require(error == 0, "{}: cannot share what is at byte {}: {}", printable(path_.string()), from,
          std::strerror(error));
}

void BlockFile::finish() {
  require(::ftruncate(file_.get(), static_cast<off_t>(bytes_)) == 0, "{}: cannot set its size: {}",
          printable(path_.string()), ErrnoText{});
  require(::fdatasync(file_.get()) == 0, "{}: cannot make it durable: {}", printable(path_.string()),
          ErrnoText{});
}

void BlockFile::require_in_place() const {
  const std::optional<FileIdentity> there = identity_at(path_);
  require(there.has_value(), "{}: was deleted while it was written: {}", printable(path_.string()),
          std::strerror(ENOENT));
  require(there->is_same_file(identity_of(file_, path_)), "{}: was replaced by another while it was written",
          printable(path_.string()));
}

std::string why_no_reflinks(const std::filesystem::path& folder) {
  std::string path = (folder / "upmoe-reflink-trial-XXXXXX").string();  // others may be trying the same
  const FileDescriptor trial(::mkostemp(path.data(), O_CLOEXEC));
  require(trial.get() >= 0, "{}: cannot create: {}", printable(path), ErrnoText{});
  ::unlink(path.c_str());  // the open file lives on without a name
  const std::array<std::byte, kBlockAlignment> page{};
  require(::pwrite(trial.get(), page.data(), page.size(), 0) == static_cast<ssize_t>(page.size()),
          "{}: cannot write: {}", printable(path), ErrnoText{});
  const int error = clone_range(trial.get(), 0, kBlockAlignment, kBlockAlignment);
  return error == 0 ? "" : std::strerror(error);
}

}  // namespace upmoe
