#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

namespace upmoe {

// Words that are made together; part of the definition in docs/random.md.
constexpr std::uint64_t kBlock = 64;

// Elements first, first + 1, ... by make(block, count, to), which writes `count` whole blocks.
// A block that `out` holds only in part goes through a buffer.
template <class T>
void fill(std::uint64_t first, std::span<T> out, auto&& make) {
  std::uint64_t block = first / kBlock;
  std::size_t skip = first % kBlock;
  while (!out.empty()) {
    std::size_t done = out.size() / kBlock * kBlock;
    if (skip == 0 && done > 0) {
      make(block, done / kBlock, out.data());
    } else {
      T whole[kBlock];
      make(block, std::size_t(1), &whole[0]);
      done = std::min(out.size(), std::size_t(kBlock) - skip);
      std::copy_n(whole + skip, done, out.data());
    }
    block += (skip + done) / kBlock;
    skip = 0;
    out = out.subspan(done);
  }
}

}  // namespace upmoe
