#include "upmoe/ops/kernel_room.h"

#include <sys/mman.h>

#include <cstddef>
#include <mutex>
#include <new>

namespace upmoe::ops {

void with_room_for_a_kernel(const std::function<void()>& make) {
  // A kernel takes 256 KB; the rest is for what other threads allocate before it is made.
  constexpr std::size_t kBytes = 16 << 20;
  static std::mutex one_at_a_time;
  const std::scoped_lock lock(one_at_a_time);
  void* const room =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  if (room == MAP_FAILED) throw std::bad_alloc();
  ::munmap(room, kBytes);
  make();
}

}  // namespace upmoe::ops
