#include "upmoe/ops/tiles.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <array>
#include <memory>

#include "upmoe/base/isa.h"

namespace upmoe::ops {
namespace {

enum Slot { kWeight = 8, kRows, kDots };

// Up to so many rows, reading w where it lies is faster than a product that packs it first, or converts it.
std::int64_t few_rows(at::ScalarType x, at::ScalarType w) {
  if (x == at::kFloat) return w == at::kFloat ? 16 : 24;
  return w == at::kFloat ? 16 : 6;
}

void multiply_few(const at::Tensor& x_MK, const at::Tensor& w_NK, const at::Tensor& out_MN) {
  const std::int64_t M = x_MK.size(0), N = w_NK.size(0), K = x_MK.size(1);
  const at::Tensor x = scratch(kRows, M, K, at::kFloat), y = scratch(kDots, M, N, at::kFloat);
  with_kernels(x_MK.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t m = 0; m < M; ++m)
      k.widen(data<T>(x_MK) + m * x_MK.stride(0), K, data<float>(x) + m * K);
  });
  with_kernels(w_NK.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    k.dots(data<float>(x), M, data<T>(w_NK), w_NK.stride(0), N, K, data<float>(y), N);
  });
  with_kernels(out_MN.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t m = 0; m < M; ++m)
      k.round(data<float>(y) + m * N, N, data<T>(out_MN) + m * out_MN.stride(0));
  });
}

}  // namespace

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

std::vector<Range> cut(std::int64_t size, std::int64_t most) {
  const std::int64_t pieces = (size + most - 1) / most;
  std::vector<Range> out;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t begin = size * i / pieces / 16 * 16,
                       end = i + 1 == pieces ? size : size * (i + 1) / pieces / 16 * 16;
    out.push_back({begin, end - begin});
  }
  return out;
}

void for_each_tile(std::int64_t count, const std::function<void(std::int64_t)>& f) {
  // Never one: ATen would run it outside of a parallel region, where a product takes all threads for itself.
  const std::int64_t threads = std::max<std::int64_t>(2, at::get_num_threads());
  at::parallel_for(0, count == 0 ? 0 : threads, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (std::int64_t thread = begin; thread < end; ++thread)
      for (std::int64_t i = thread; i < count; i += threads) f(i);
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

void multiply(const at::Tensor& x_MK, const at::Tensor& w_NK, const at::Tensor& out_MN) {
  const at::ScalarType dtype = x_MK.scalar_type();
  const bool kernel = has_kernels(x_MK) && has_kernels(w_NK) && w_NK.stride(1) == 1;
  if (kernel && x_MK.size(0) <= few_rows(dtype, w_NK.scalar_type())) return multiply_few(x_MK, w_NK, out_MN);
  at::Tensor w = w_NK, out = out_MN;
  if (w.scalar_type() != dtype) {
    w = scratch(kWeight, w_NK.size(0), w_NK.size(1), dtype);
    w.copy_(w_NK);
  }
  at::mm_out(out, x_MK, w.t());
}

}  // namespace upmoe::ops
