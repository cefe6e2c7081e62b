#include "upmoe/tensor/gather.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/base/isa.h"
#include "upmoe/tensor/gather_kernels.h"

namespace upmoe {
namespace {

// Whole rows are transposed for one column of so many, or more. For one of eight, element by element is
// faster (benchmarks/kernel_bench.cpp).
constexpr std::size_t kFewestColumns = 4;
constexpr std::size_t kMostTurned = 2 << 20;  // bytes: a limit to what a thread keeps

using Index = std::span<const std::int32_t>;

const GatherKernels* kernels() {
#ifdef UPMOE_X86_KERNELS
  if (active_isa() == Isa::avx512) return &kGatherAvx512;
  if (active_isa() == Isa::avx2) return &kGatherAvx2;
#endif
  return nullptr;
}

void require_fit(const StoredMatrix& in, Index index, std::int64_t indexed, std::uint64_t out_elements,
                 std::uint64_t begin, std::size_t out_bytes) {
  require(in.element == 2 || in.element == 4, "elements of {} bytes are not gathered, only of 2 or 4",
          in.element);
  require(in.rows >= 0 && in.cols >= 0 &&
              in.bytes.size() ==
                  static_cast<std::uint64_t>(in.rows) * static_cast<std::uint64_t>(in.cols) * in.element,
          "a matrix of {} x {} elements of {} bytes does not take {} bytes", in.rows, in.cols, in.element,
          in.bytes.size());
  require(begin % in.element == 0 && out_bytes % in.element == 0 &&
              begin + out_bytes <= out_elements * in.element,
          "a range of {} bytes at {} is none of a matrix of {} elements of {} bytes", out_bytes, begin,
          out_elements, in.element);
  for (const std::int32_t i : index)
    require(0 <= i && i < indexed, "number {} of {} rows or columns is asked for", i, indexed);
}

bool is_run(Index index) {
  for (std::size_t j = 1; j < index.size(); ++j)
    if (index[j] != index[j - 1] + 1) return false;
  return true;
}

// One row, element by element: the reference.
template <std::size_t kElement>
void row_by_element(const std::byte* in, Index index, std::byte* out) {
  for (std::size_t j = 0; j < index.size(); ++j)
    std::memcpy(out + j * kElement, in + static_cast<std::size_t>(index[j]) * kElement, kElement);
}

// A block of memory that lies at a multiple of 64 and is kept for the thread's next one.
unsigned char* scratch(std::size_t bytes) {
  thread_local std::vector<unsigned char> kept;
  if (kept.size() < bytes + 64) kept.resize(bytes + 64);
  void* at = kept.data();
  std::size_t space = kept.size();
  return static_cast<unsigned char*>(std::align(64, bytes, at, space));
}

class Columns {
 public:
  Columns(const StoredMatrix& in, Index index) : in_(in), index_(index), run_(is_run(index)) {}

  // Elements [first, first + count) of row r of the result.
  void part(std::uint64_t r, std::size_t first, std::size_t count, std::byte* out) const {
    const std::byte* const row = in_.bytes.data() + r * stride();
    const Index some = index_.subspan(first, count);
    if (some.empty()) return;
    if (run_)
      std::memcpy(out, row + static_cast<std::size_t>(some[0]) * in_.element, count * in_.element);
    else if (in_.element == 2)
      row_by_element<2>(row, some, out);
    else
      row_by_element<4>(row, some, out);
  }

  // Rows [r, r + rows) of the result.
  void whole(std::uint64_t r, std::size_t rows, std::byte* out) const {
    const std::size_t out_stride = index_.size() * in_.element;
    if (const GatherKernels* vector = kernels(); vector != nullptr && !run_ && is_worth(*vector)) {
      const std::size_t strip = vector->vector / in_.element;
      const auto kernel = in_.element == 2 ? vector->columns_of_2 : vector->columns_of_4;
      for (; rows >= strip / 2; r += std::min(rows, strip), rows -= std::min(rows, strip)) {
        const std::size_t some = std::min(rows, strip);
        kernel({.in = reinterpret_cast<const unsigned char*>(in_.bytes.data()) + r * stride(),
                .in_stride = stride(),
                .rows = some,
                .cols = static_cast<std::size_t>(in_.cols),
                .index = index_.data(),
                .count = index_.size(),
                .out = reinterpret_cast<unsigned char*>(out),
                .out_stride = out_stride,
                .turned = scratch(static_cast<std::size_t>(in_.cols) * vector->vector)});
        out += some * out_stride;
      }
    }
    for (; rows > 0; --rows, ++r, out += out_stride) part(r, 0, index_.size(), out);
  }

 private:
  std::size_t stride() const { return static_cast<std::size_t>(in_.cols) * in_.element; }
  bool is_worth(const GatherKernels& vector) const {
    const auto cols = static_cast<std::size_t>(in_.cols);
    return index_.size() * kFewestColumns >= cols && cols * vector.vector <= kMostTurned;
  }

  const StoredMatrix& in_;
  Index index_;
  bool run_;
};

// Cuts a range of a matrix with rows of `cols` elements into whole rows and parts of rows.
void for_rows(std::uint64_t begin, std::uint64_t end, std::uint64_t cols, auto&& part, auto&& whole) {
  for (std::uint64_t at = begin; at < end;) {
    const std::uint64_t row = at / cols, first = at % cols, rows = (end - at) / cols;
    if (first == 0 && rows > 0) {
      whole(row, rows, at - begin);
      at += rows * cols;
    } else {
      const std::uint64_t count = std::min(cols - first, end - at);
      part(row, first, count, at - begin);
      at += count;
    }
  }
}

}  // namespace

void gather_rows(const StoredMatrix& in, Index index, std::uint64_t begin, std::span<std::byte> out) {
  const auto cols = static_cast<std::uint64_t>(in.cols);
  require_fit(in, index, in.rows, index.size() * cols, begin, out.size());
  // Whole rows or parts: the C library's memcpy has kernels of its own.
  const auto copy = [&](std::uint64_t row, std::uint64_t first, std::uint64_t count, std::uint64_t at) {
    std::memcpy(out.data() + at * in.element,
                in.bytes.data() + (static_cast<std::uint64_t>(index[row]) * cols + first) * in.element,
                count * in.element);
  };
  for_rows(begin / in.element, (begin + out.size()) / in.element, cols, copy,
           [&](std::uint64_t row, std::uint64_t rows, std::uint64_t at) {
             for (std::uint64_t r = 0; r < rows; ++r) copy(row + r, 0, cols, at + r * cols);
           });
}

void gather_columns(const StoredMatrix& in, Index index, std::uint64_t begin, std::span<std::byte> out) {
  require_fit(in, index, in.cols, index.size() * static_cast<std::uint64_t>(in.rows), begin, out.size());
  const Columns columns(in, index);
  for_rows(
      begin / in.element, (begin + out.size()) / in.element, index.size(),
      [&](std::uint64_t row, std::uint64_t first, std::uint64_t count, std::uint64_t at) {
        columns.part(row, first, count, out.data() + at * in.element);
      },
      [&](std::uint64_t row, std::uint64_t rows, std::uint64_t at) {
        columns.whole(row, rows, out.data() + at * in.element);
      });
}

}  // namespace upmoe
