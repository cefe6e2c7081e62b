#include "upmoe/ops/kernel_room.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ATen/ops/zeros.h>

#include <exception>
#include <fstream>
#include <vector>

#include "upmoe/ops/product.h"

namespace upmoe::ops {
namespace {

// From here on this process has so many bytes of address space more than it uses now.
void limit_memory(std::size_t more) {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + more;
  const rlimit limit{bytes, bytes};
  if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(2);
}

// Products of many sizes, on this thread; each needs kernels of its own.
void multiply_many(at::ScalarType dtype) {
  for (std::int64_t K = 16; K <= 256; K += 16) {
    const at::TensorOptions options(dtype);
    product(at::zeros({64, K}, options), at::zeros({K, 64}, options), at::zeros({64, 64}, options));
  }
}

enum Ended { kDone, kThrew, kWrong };

// What becomes of a process, forked from this one, that multiplies with so little memory.
Ended multiply_with(std::size_t more, at::ScalarType dtype) {
  const pid_t child = ::fork();
  if (child == 0) {
    limit_memory(more);
    try {
      multiply_many(dtype);
    } catch (const std::exception&) {
      ::_exit(kThrew);
    }
    ::_exit(kDone);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return kWrong;
  return static_cast<Ended>(WEXITSTATUS(status));
}

TEST(KernelRoom, ThrowsInsteadOfCrashingForAnyLimitOfMemory) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    int threw = 0;
    for (std::size_t more = 0; more <= (24u << 20); more += 100'000) {
      const Ended ended = multiply_with(more, dtype);
      ASSERT_NE(ended, kWrong) << c10::toString(dtype) << " with " << more << " bytes";
      threw += ended == kThrew;
    }
    EXPECT_GT(threw, 0);
    EXPECT_EQ(multiply_with(1u << 30, dtype), kDone);
  }
}

}  // namespace
}  // namespace upmoe::ops
