#include "upmoe/io/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <system_error>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {

// One mapping, for the signal handler. Never freed, only used again: the handler may be looking at any.
struct MappedRange {
  std::atomic<std::uintptr_t> begin = 0, end = 0;
  std::atomic<bool> damaged = false;
  MappedRange* next = nullptr;
};

namespace {

std::atomic<MappedRange*> ranges = nullptr;  // a list that only grows
struct sigaction action_before {};

std::uintptr_t page_size() {
  static const auto size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

// A page of a mapping that is no longer in its file: the reader gets zeros, and require_intact() will tell.
extern "C" void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (MappedRange* range = ranges; range != nullptr; range = range->next) {
    if (address < range->begin || address >= range->end) continue;
    void* const page = reinterpret_cast<void*>(address / page_size() * page_size());
    if (::mmap(page, page_size(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      break;
    range->damaged = true;
    return;
  }
  // Not ours: what was there before has its turn, or the default, which ends the program.
  if ((action_before.sa_flags & SA_SIGINFO) != 0) return action_before.sa_sigaction(signal, info, context);
  if (action_before.sa_handler != SIG_DFL && action_before.sa_handler != SIG_IGN)
    return action_before.sa_handler(signal);
  std::signal(SIGBUS, SIG_DFL);  // and the instruction is tried again
}

MappedRange* guard(std::uintptr_t begin, std::uintptr_t end) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  static const bool installed = [] {
    page_size();
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    return ::sigaction(SIGBUS, &action, &action_before) == 0;
  }();
  static_cast<void>(installed);
  MappedRange* range = ranges;
  while (range != nullptr && range->end != 0) range = range->next;
  if (range == nullptr) {
    range = new MappedRange;
    range->next = ranges;
    ranges = range;
  }
  range->damaged = false;
  range->begin = begin;
  range->end = end;
  return range;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const FileDescriptor file = open_regular_file(path);
  identity_ = identity_of(file, path);
  size_ = identity_.bytes;
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  require(address != MAP_FAILED, "{}: {}cannot map {} bytes: {}", printable(path.string()),
          errno == ENOMEM ? "out of memory: " : "", size_, ErrnoText{});
  data_ = static_cast<const std::byte*>(address);
  const auto begin = reinterpret_cast<std::uintptr_t>(data_);
  range_ = guard(begin, begin + (size_ + page_size() - 1) / page_size() * page_size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      identity_(other.identity_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      range_(std::exchange(other.range_, nullptr)),
      has_name_(other.has_name_) {}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  ::munmap(const_cast<std::byte*>(data_), size_);
  range_->begin = 0;
  range_->end = 0;
}

void MappedFile::require_intact() const {
  require(range_ == nullptr || !range_->damaged, "{}: became shorter than {} bytes while it was read",
          printable(path_.string()), size_);
  if (!has_name_) return;
  std::error_code error;  // links are followed, as they were when it was opened
  const std::filesystem::path place = std::filesystem::canonical(path_, error);
  require(!error && identity_at(place) == identity_,
          "{}: was changed, replaced or removed while it was in use", printable(path_.string()));
}

void release(std::span<const std::byte> range) {
  const auto begin = reinterpret_cast<std::uintptr_t>(range.data()), end = begin + range.size();
  const std::uintptr_t first = (begin + page_size() - 1) / page_size() * page_size(),
                       last = end / page_size() * page_size();
  // A hint: what the kernel makes of it changes no result, so its answer is not looked at.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace upmoe
