#include "upmoe/inspect/hashed_matrix.h"

#include <algorithm>
#include <cstring>

#include "upmoe/base/hash.h"

namespace upmoe {
namespace {

constexpr std::size_t kBlockBytes = 1 << 20;  // is hashed twice while it is in the cache

// All columns side by side, one element of each at a time, as FNV-1a does it with bytes. The factor is odd,
// so one element that differs always shows.
template <class Element>
void add_elements(std::span<const std::byte> row, std::vector<std::uint64_t>& hashes) {
  constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;
  for (std::size_t c = 0; c < hashes.size(); ++c) {
    Element element;
    std::memcpy(&element, row.data() + c * sizeof(Element), sizeof(Element));
    hashes[c] = (hashes[c] ^ element) * kFactor;
  }
}

}  // namespace

HashedMatrix hash_matrix(const View& view, Matrix matrix) {
  const bool columns = matrix == Matrix::down;
  // Zeros of one type are not those of another.
  const auto seed = static_cast<std::uint64_t>(view.dtype) + 1;
  HashedMatrix out;
  out.neurons.assign(static_cast<std::size_t>(columns ? view.cols : view.rows), seed);
  const std::size_t row_bytes = view.bytes.size() / static_cast<std::size_t>(view.rows);
  const auto step = static_cast<std::int64_t>(std::max<std::size_t>(1, kBlockBytes / row_bytes));
  Xxh3 whole;
  for (std::int64_t begin = 0; begin < view.rows; begin += step) {
    const std::int64_t end = std::min(view.rows, begin + step);
    whole.update(view.bytes.subspan(static_cast<std::size_t>(begin) * row_bytes,
                                    static_cast<std::size_t>(end - begin) * row_bytes));
    for (std::int64_t r = begin; r < end; ++r) {
      const std::span<const std::byte> row = view.row(r);
      if (!columns)
        out.neurons[static_cast<std::size_t>(r)] = xxh3(row, seed);
      else if (bits(view.dtype) == 16)
        add_elements<std::uint16_t>(row, out.neurons);
      else
        add_elements<std::uint32_t>(row, out.neurons);
    }
  }
  out.whole = whole.digest();
  return out;
}

}  // namespace upmoe
