#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace upmoe {

// A matrix of elements of 2 or 4 bytes, row-major, at any address.
struct StoredMatrix {
  std::span<const std::byte> bytes;
  std::int64_t rows, cols;
  std::size_t element;  // bytes of one
};

// The matrix that is made of rows (columns) index[0], index[1], ... of `in`, in any order and as often as you
// like: its bytes [begin, begin + out.size()), both multiples of the element's size. Nothing is converted.
// Throws Error when `in` has no such row (column), or `in` or the range is not what it has to be.
void gather_rows(const StoredMatrix& in, std::span<const std::int32_t> index, std::uint64_t begin,
                 std::span<std::byte> out);
void gather_columns(const StoredMatrix& in, std::span<const std::int32_t> index, std::uint64_t begin,
                    std::span<std::byte> out);

}  // namespace upmoe
