#include "upmoe/io/file_window.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

// Pages of a range that the page cache holds, as cachestat(2) counts them; -1 before Linux 6.5, or when we
// may not know.
std::int64_t cached_pages(int fd, std::uint64_t at, std::uint64_t bytes) {
  constexpr long kCachestat = 451;  // on every architecture; the headers of Debian 12 don't have it yet
  const struct {
    std::uint64_t offset, length;
  } range{at, bytes};
  struct {
    std::uint64_t cache, dirty, writeback, evicted, recently_evicted;
  } counts{};
  return ::syscall(kCachestat, fd, &range, &counts, 0u) == 0 ? static_cast<std::int64_t>(counts.cache) : -1;
}

bool is_cached(int fd, std::uint64_t at, std::uint64_t bytes) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return cached_pages(fd, at, bytes) >= static_cast<std::int64_t>((bytes + page - 1) / page);
}

void* map(void* at, std::uint64_t bytes, int protection, int flags, int fd, std::uint64_t offset,
          const std::filesystem::path& path) {
  void* address = ::mmap(at, bytes, protection, flags, fd, static_cast<off_t>(offset));
  require(address != MAP_FAILED, "{}: cannot map {} of addresses: {}", printable(path.string()),
          human_bytes(bytes), std::strerror(errno));
  return address;
}

// What pread() has answered, at a place where there must be something.
void require_read(ssize_t got, const std::filesystem::path& path, std::uint64_t at,
                  std::uint64_t file_bytes) {
  require(got >= 0, "{}: cannot read at byte {}: {}", printable(path.string()), at, std::strerror(errno));
  require(got > 0, "{}: ends at byte {}, expected {}: it became shorter while it was read",
          printable(path.string()), at, file_bytes);
}

}  // namespace

FileWindow::FileWindow(const std::vector<std::filesystem::path>& paths,
                       const std::vector<FileIdentity>& expected, std::size_t num_slots)
    : memory_(::memfd_create("upmoe-window", MFD_CLOEXEC)) {
  require(memory_.get() >= 0 && ::ftruncate(memory_.get(), static_cast<off_t>(num_slots * kBlockBytes)) == 0,
          "cannot allocate {} of memory to read into: {}", human_bytes(num_slots * kBlockBytes),
          std::strerror(errno));
  try {
    for (std::size_t f = 0; f < paths.size(); ++f) {
      File& file = files_.emplace_back();
      file.path = paths[f];
      file.cached = open_regular_file(file.path);
      file.identity = identity_of(file.cached, file.path);
      require(file.identity == expected[f], "{}: has changed since its header was read",
              printable(file.path.string()));
      file.direct = FileDescriptor(::open(file.path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK));
      if (file.direct.get() >= 0 && identity_of(file.direct, file.path) != file.identity)
        fail("{}: was replaced while it was opened", printable(file.path.string()));
      file.bytes = file.identity.bytes;
      if (file.bytes == 0) continue;
      file.reserved = num_chunks(file.bytes) * kBlockBytes;
      file.begin = static_cast<std::byte*>(map(
          nullptr, file.reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, file.path));
    }
  } catch (...) {
    release_all();
    throw;
  }
}

FileWindow::~FileWindow() { release_all(); }

void FileWindow::release_all() {
  for (const File& file : files_)
    if (file.begin != nullptr) ::munmap(file.begin, file.reserved);
}

void FileWindow::load(std::size_t f, std::uint64_t chunk, std::size_t slot) {
  File& file = files_[f];
  const std::uint64_t at = chunk * kBlockBytes,
                      wanted = std::min<std::uint64_t>(kBlockBytes, file.bytes - at);
  std::byte* const to = file.begin + at;
  map(to, kBlockBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_.get(), slot * kBlockBytes,
      file.path);
  const bool cached = is_cached(file.cached.get(), at, wanted);
  bool direct = file.direct.get() >= 0 && !cached;
  for (std::uint64_t done = 0; done < wanted;) {
    // Direct reads go on to a whole page, which the slot has room for.
    const std::uint64_t size =
        direct ? (wanted - done + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment : wanted - done;
    const ssize_t got = ::pread(direct ? file.direct.get() : file.cached.get(), to + done, size,
                                static_cast<off_t>(at + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EINVAL && direct) {  // accepted at open, refused at read
      direct = false;
      continue;
    }
    require_read(got, file.path, at + done, file.bytes);
    done += static_cast<std::uint64_t>(got);
    if (direct && done % kBlockAlignment != 0 && done < wanted) direct = false;  // a short read, off the grid
  }
  if (!direct && !cached)
    ::posix_fadvise(file.cached.get(), static_cast<off_t>(at), static_cast<off_t>(wanted),
                    POSIX_FADV_DONTNEED);
}

void FileWindow::read(std::size_t f, std::uint64_t at, std::span<std::byte> out) const {
  const File& file = files_[f];
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t got =
        ::pread(file.cached.get(), out.data() + done, out.size() - done, static_cast<off_t>(at + done));
    if (got < 0 && errno == EINTR) continue;
    require_read(got, file.path, at + done, file.bytes);
    done += static_cast<std::size_t>(got);
  }
}

void FileWindow::drop(std::size_t f, std::uint64_t chunk) {
  map(files_[f].begin + chunk * kBlockBytes, kBlockBytes, PROT_NONE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0, files_[f].path);
}

void FileWindow::require_unchanged() const {
  for (const File& file : files_)
    require(identity_of(file.cached, file.path) == file.identity, "{}: was changed while it was read",
            printable(file.path.string()));
}

}  // namespace upmoe
