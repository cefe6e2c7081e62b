#include "upmoe/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace {

// The pages that touch a range (grow) or that lie wholly in it (shrink).
struct Pages {
  std::uintptr_t begin, end;
};
Pages pages(std::span<const std::byte> range, bool grow) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(range.data()), end = begin + range.size();
  if (grow) return {begin / page * page, (end + page - 1) / page * page};
  return {(begin + page - 1) / page * page, end / page * page};
}

void advise(Pages range, int advice) {
  // A hint: what the kernel makes of it changes no result, so its answer is not looked at.
  if (range.begin < range.end)
    ::madvise(reinterpret_cast<void*>(range.begin), range.end - range.begin, advice);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const FileDescriptor file = open_regular_file(path);
  size_ = file_size(file, path);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  require(address != MAP_FAILED, "{}: cannot map {} bytes: {}", printable(path.string()), size_,
          std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void will_need(std::span<const std::byte> range) { advise(pages(range, /*grow=*/true), MADV_WILLNEED); }
void release(std::span<const std::byte> range) { advise(pages(range, /*grow=*/false), MADV_DONTNEED); }

}  // namespace upmoe
