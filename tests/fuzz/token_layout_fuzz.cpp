// Files of token ids. The input is read as a .bin of llm.c or nanoGPT, and as the index of Megatron of a .bin
// of some sizes, which the seeds have.
#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "upmoe/data/token_layout.h"

namespace upmoe::fuzz {
namespace {

void check_layout(const TokenLayout& layout, std::uint64_t file_bytes) {
  check(layout.size >= 0 && layout.data_begin <= file_bytes, "tokens before or behind the file");
  check(std::uint64_t(layout.size) == (file_bytes - layout.data_begin) / std::uint64_t(bytes(layout.type)),
        "more or fewer tokens than the file has");
  const auto& starts = layout.document_starts;
  check(std::ranges::adjacent_find(starts, std::ranges::greater_equal()) == starts.end(),
        "documents do not ascend");
  check(starts.empty() || (starts.front() == 0 && starts.back() < layout.size), "a document outside");
}

void read_all(const TokenLayout& layout, std::span<const std::byte> whole) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(layout.size));
  only_errors([&] {
    read_tokens(layout, whole, "t.bin", 0, ids);
    check(std::ranges::all_of(ids, [](std::int32_t id) { return id >= 0; }), "an id that is none");
  });
  bool refused = false;
  try {
    read_tokens(layout, whole, "t.bin", 1, ids);
  } catch (const Error&) {
    refused = true;
  }
  check(refused, "a token behind the last");
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  const auto whole = std::as_bytes(std::span(data, size));
  only_errors([&] {
    const TokenLayout layout = parse_token_bin(whole, "t.bin");
    check_layout(layout, size);
    read_all(layout, whole);
  });
  for (std::uint64_t bin_bytes : {std::uint64_t(0), std::uint64_t(2), std::uint64_t(6), std::uint64_t(8),
                                  std::uint64_t(20), std::uint64_t(2147483647)})
    only_errors([&] {
      const TokenLayout layout = parse_megatron_index(whole, bin_bytes, "t.idx");
      check_layout(layout, bin_bytes);
      if (bin_bytes <= 64) read_all(layout, std::vector<std::byte>(bin_bytes, std::byte(size)));
    });
  return 0;
}
