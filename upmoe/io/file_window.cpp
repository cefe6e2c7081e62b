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

// What pread() has answered, at a place where there must be something.
void require_read(ssize_t got, const std::filesystem::path& path, std::uint64_t at,
                  std::uint64_t file_bytes) {
  require(got >= 0, "{}: cannot read at byte {}: {}", printable(path.string()), at, ErrnoText{});
  require(got > 0, "{}: ends at byte {}, expected {}: it became shorter while it was read",
          printable(path.string()), at, file_bytes);
}

// Takes pages from one address to another, without copying them. False: the system can't.
bool move_pages(void* from, void* to, std::size_t bytes) {
  return ::mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) == to;
}

void require_moved(bool moved, std::size_t bytes) {
  require(moved, "{}cannot move {} of memory: {}", errno == ENOMEM ? "out of memory: " : "",
          human_bytes(bytes), ErrnoText{});
}

// Found out by trying.
bool can_move_pages() {
  const AddressRange from(kBlockAlignment, /*memory=*/true), to(kBlockAlignment, /*memory=*/false);
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return move_pages(from.begin(), to.begin(), page);
}

// Puts new pages at these addresses, or none, whatever was there.
void map_again(std::byte* at, std::size_t bytes, int protection) {
  void* const there =
      ::mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  require(there == at, "{}cannot map {}: {}", errno == ENOMEM ? "out of memory: " : "", human_bytes(bytes),
          ErrnoText{});
  if (protection != PROT_NONE) ::madvise(at, bytes, MADV_HUGEPAGE);  // a hint
}

}  // namespace

FileWindow::File::File(const std::filesystem::path& place, const FileIdentity& expected,
                       std::size_t chunk_bytes)
    : path(place),
      cached(open_regular_file(place)),
      direct(::open(place.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK)),
      identity(identity_of(cached, place)),
      addresses(num_chunks(identity.bytes, chunk_bytes) * chunk_bytes, /*memory=*/false),
      slot_of_chunk(num_chunks(identity.bytes, chunk_bytes)) {
  require(identity == expected, "{}: has changed since its header was read", printable(place.string()));
  // read() wants a few bytes here and there, and no more than those.
  if (direct.get() >= 0) ::posix_fadvise(cached.get(), 0, 0, POSIX_FADV_RANDOM);
  require(direct.get() < 0 || identity_of(direct, place) == identity, "{}: was replaced while it was opened",
          printable(place.string()));
}

FileWindow::FileWindow(const std::vector<std::filesystem::path>& paths,
                       const std::vector<FileIdentity>& expected, std::size_t num_slots,
                       std::size_t chunk_bytes)
    : chunk_bytes_(chunk_bytes), moves_(can_move_pages()), slots_(num_slots * chunk_bytes, /*memory=*/true) {
  for (std::size_t f = 0; f < paths.size(); ++f) files_.emplace_back(paths[f], expected[f], chunk_bytes);
}

void FileWindow::load(std::size_t f, std::uint64_t chunk, std::size_t slot) {
  File& file = files_[f];
  const std::uint64_t at = chunk * chunk_bytes_, bytes = file.identity.bytes,
                      wanted = std::min<std::uint64_t>(chunk_bytes_, bytes - at);
  std::byte* const place = file.addresses.begin() + at;
  std::byte* const to = moves_ ? slots_.begin() + slot * chunk_bytes_ : place;
  if (!moves_) map_again(place, chunk_bytes_, PROT_READ | PROT_WRITE);
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
    require_read(got, file.path, at + done, bytes);
    done += static_cast<std::uint64_t>(got);
    if (direct && done % kBlockAlignment != 0 && done < wanted) direct = false;  // a short read, off the grid
  }
  if (!direct && !cached)
    ::posix_fadvise(file.cached.get(), static_cast<off_t>(at), static_cast<off_t>(wanted),
                    POSIX_FADV_DONTNEED);
  if (moves_) require_moved(move_pages(to, place, chunk_bytes_), chunk_bytes_);
  file.slot_of_chunk[chunk] = slot;
}

void FileWindow::read(std::size_t f, std::uint64_t at, std::span<std::byte> out) const {
  const File& file = files_[f];
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t got =
        ::pread(file.cached.get(), out.data() + done, out.size() - done, static_cast<off_t>(at + done));
    if (got < 0 && errno == EINTR) continue;
    require_read(got, file.path, at + done, file.identity.bytes);
    done += static_cast<std::size_t>(got);
  }
}

void FileWindow::drop(std::size_t f, std::uint64_t chunk) {
  File& file = files_[f];
  std::byte* const from = file.addresses.begin() + chunk * chunk_bytes_;
  if (moves_)
    require_moved(move_pages(from, slots_.begin() + file.slot_of_chunk[chunk] * chunk_bytes_, chunk_bytes_),
                  chunk_bytes_);
  // What is touched from now on is a fault. A new mapping is one with its neighbours, so that they don't add
  // up.
  map_again(from, chunk_bytes_, PROT_NONE);
}

void FileWindow::require_unchanged() const {
  for (const File& file : files_)
    require(identity_of(file.cached, file.path) == file.identity, "{}: was changed while it was read",
            printable(file.path.string()));
}

}  // namespace upmoe
