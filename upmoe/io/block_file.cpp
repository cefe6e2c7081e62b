#include "upmoe/io/block_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

constexpr int kCreate = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;

FileDescriptor create(const std::filesystem::path& path, bool& direct) {
  direct = true;
  int fd = ::open(path.c_str(), kCreate | O_DIRECT, 0666);
  if (fd < 0 && errno == EINVAL) {  // tmpfs and others refuse direct I/O
    direct = false;
    ::unlink(path.c_str());  // some have created it all the same
    fd = ::open(path.c_str(), kCreate, 0666);
  }
  require(fd >= 0, "{}: cannot create: {}", printable(path.string()), std::strerror(errno));
  return FileDescriptor(fd);
}

}  // namespace

BlockFile::BlockFile(const std::filesystem::path& path, std::uint64_t bytes)
    : path_(path), bytes_(bytes), file_(create(path, direct_)) {
  // Asked first: ext4 fills the disk to the last block before it says that a reservation is too large.
  struct statvfs disk {};
  const bool known = ::fstatvfs(file_.get(), &disk) == 0 && disk.f_blocks > 0;
  const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
  require(!known || bytes <= free, "{}: cannot reserve {}: {} are free", printable(path.string()),
          human_bytes(bytes), human_bytes(free));
  const bool reserved = bytes == 0 || ::fallocate(file_.get(), 0, 0, static_cast<off_t>(bytes)) == 0;
  // EOPNOTSUPP: this file system can't reserve; then the writes will tell.
  require(reserved || errno == EOPNOTSUPP, "{}: cannot reserve {}: {}", printable(path.string()),
          human_bytes(bytes), std::strerror(errno));
}

void BlockFile::write(std::uint64_t at, std::span<std::byte> block) {
  std::size_t size = block.size();
  if (direct_) {
    size = (size + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
    std::memset(block.data() + block.size(), 0, size - block.size());
  }
  for (std::size_t done = 0; done < size;) {
    const ssize_t put =
        ::pwrite(file_.get(), block.data() + done, size - done, static_cast<off_t>(at + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EINVAL && direct_) {
      // Accepted at open, refused at write (some network and FUSE file systems): go on through the page
      // cache.
      require(::fcntl(file_.get(), F_SETFL, 0) == 0, "{}: cannot leave direct I/O: {}",
              printable(path_.string()), std::strerror(errno));
      continue;
    }
    require(put > 0, "{}: cannot write at byte {}: {}", printable(path_.string()), at + done,
            std::strerror(put < 0 ? errno : ENOSPC));
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

void BlockFile::finish() {
  require(::ftruncate(file_.get(), static_cast<off_t>(bytes_)) == 0, "{}: cannot set its size: {}",
          printable(path_.string()), std::strerror(errno));
  require(::fdatasync(file_.get()) == 0, "{}: cannot make it durable: {}", printable(path_.string()),
          std::strerror(errno));
}

}  // namespace upmoe
