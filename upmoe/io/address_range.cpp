#include "upmoe/io/address_range.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/io/block_file.h"

namespace upmoe {

AddressRange::AddressRange(std::uint64_t bytes, bool memory) : bytes_(bytes + kBlockBytes) {
  all_ = ::mmap(nullptr, bytes_, memory ? PROT_READ | PROT_WRITE : PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(all_ != MAP_FAILED, "{}cannot map {} of {}: {}", errno == ENOMEM ? "out of memory: " : "",
          human_bytes(bytes), memory ? "memory" : "addresses", ErrnoText{});
  const auto address = reinterpret_cast<std::uintptr_t>(all_);
  begin_ = reinterpret_cast<std::byte*>((address + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
  if (memory) ::madvise(begin_, bytes, MADV_HUGEPAGE);  // a hint
}

AddressRange::~AddressRange() {
  if (all_ != nullptr) ::munmap(all_, bytes_);
}

}  // namespace upmoe
