#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <functional>

#include "upmoe/ops/kernels.h"

// How the operations use the cores of a CPU: work is cut into tiles whose size does not depend on the number
// of threads, and a tile is computed by one thread. So neither do the bits of the results.
namespace upmoe::ops {

constexpr std::int64_t kTileRows = 1024, kTileColumns = 128;

// Where the kernels work: float32 or bfloat16 on a CPU. Everything else is composed of ATen's operations.
bool has_kernels(const at::Tensor& x);

const Kernels& kernels();

// Calls f(kernels of T, T{}) with the T of a dtype that has kernels.
template <class F>
void with_kernels(at::ScalarType dtype, F f) {
  dtype == at::kFloat ? f(kernels().of_float, float{}) : f(kernels().of_bf16, Bf16{});
}

// Numbers of a tensor whose last dimension is contiguous.
template <class T>
T* data(const at::Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

struct Range {
  std::int64_t begin, size;
};
// [0, size) in pieces of about equal size, all but the last multiples of `of`, and none larger than `most`.
std::vector<Range> cut(std::int64_t size, std::int64_t most, std::int64_t of = 16);

constexpr std::int64_t up_to(std::int64_t multiple, std::int64_t size) {
  return (size + multiple - 1) / multiple * multiple;
}

// f(0) to f(count - 1); a thread that is done takes the next. ATen's operations may be called from f, and run
// on one thread there; nothing is recorded for autograd.
void for_each_tile(std::int64_t count, const std::function<void(std::int64_t)>& f);

// f(row) for every row of a table, in ranges of at least `numbers` / 16384 rows.
void for_each_row(std::int64_t rows, std::int64_t numbers_a_row, const std::function<void(std::int64_t)>& f);

// Memory of this thread, kept for the next time; valid until the thread asks for the same slot again.
at::Tensor scratch(int slot, std::int64_t rows, std::int64_t columns, at::ScalarType dtype);

// For programs. Every layer makes tensors and lets them go: pages given back to the system would have to be
// cleared anew.
void keep_freed_memory();

}  // namespace upmoe::ops
