#include "upmoe/ops/tiles.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/from_blob.h>

#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>

#include "upmoe/base/isa.h"

namespace upmoe::ops {
const Kernels& kernels() {
#ifdef UPMOE_X86_KERNELS
  if (active_isa() == Isa::avx512) return kKernelsAvx512;
  if (active_isa() == Isa::avx2) return kKernelsAvx2;
#endif
  return kKernelsPlain;
}

bool has_kernels(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

std::vector<Range> cut(std::int64_t size, std::int64_t most, std::int64_t of) {
  std::vector<Range> out;
  if (size == 0) return out;
  const std::int64_t pieces = up_to(most, size) / most, even = up_to(pieces, size) / pieces;
  const std::int64_t step = std::min(most, up_to(of, even));
  for (std::int64_t begin = 0; begin < size; begin += step)
    out.push_back({begin, std::min(step, size - begin)});
  return out;
}

void for_each_tile(std::int64_t count, const std::function<void(std::int64_t)>& f) {
  // Never one: ATen would run it outside of a parallel region, where a product takes all threads for itself.
  const std::int64_t threads = std::max<std::int64_t>(2, at::get_num_threads());
  std::atomic<std::int64_t> next = 0;
  at::parallel_for(0, count == 0 ? 0 : threads, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (std::int64_t thread = begin; thread < end; ++thread)
      for (std::int64_t i = next++; i < count; i = next++) f(i);
  });
}

void for_each_row(std::int64_t rows, std::int64_t numbers_a_row, const std::function<void(std::int64_t)>& f) {
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, numbers_a_row));
  at::parallel_for(0, rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) f(row);
  });
}

at::Tensor scratch(int slot, std::int64_t rows, std::int64_t columns, at::ScalarType dtype) {
  struct Kept {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t size = 0;
  };
  thread_local std::array<Kept, 16> all;
  Kept& kept = all.at(static_cast<std::size_t>(slot));
  const std::size_t asked = static_cast<std::size_t>(rows * columns) * c10::elementSize(dtype) + 64;
  if (kept.size < asked) kept = {std::unique_ptr<std::byte[]>(new std::byte[asked]), asked};
  void* start = kept.bytes.get();
  std::size_t room = kept.size;
  std::align(64, asked - 64, start, room);
  return at::from_blob(start, {rows, columns}, at::TensorOptions(dtype));
}

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

}  // namespace upmoe::ops
