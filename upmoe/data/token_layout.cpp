#include "upmoe/data/token_layout.h"

#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little endian");

// NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py: 9 bytes of magic, u64 version, u8 type,
// u64 sequences, u64 documents.
constexpr std::string_view kMegatronMagic("MMIDIDX\0\0", 9);
constexpr std::uint64_t kMegatronHeader = 34;

// karpathy/llm.c, dev/data/data_common.py: 256 int32, of which three are used: magic, version, tokens.
constexpr std::uint64_t kLlmcHeader = 256 * 4;
constexpr std::int32_t kGpt2Magic = 20240520, kLlama3Magic = 20240801, kChoicesMagic = 20240522;

template <class T>
T load(std::span<const std::byte> from, std::uint64_t at) {
  T value{};
  std::memcpy(&value, from.data() + at, sizeof value);
  return value;
}

TokenType megatron_type(std::uint8_t code, std::string_view file) {
  switch (code) {
    case 1:
      return TokenType::u8;
    case 2:
      return TokenType::i8;
    case 3:
      return TokenType::i16;
    case 4:
      return TokenType::i32;
    case 5:
      return TokenType::i64;
    case 8:
      return TokenType::u16;
    default:
      fail("{}: type {} of the tokens is {}, expected a whole number (1 to 5, or 8)", file, code,
           code == 6 || code == 7 ? "a float" : "unknown");
  }
}

// The three lists behind the header, at offsets that are not aligned.
struct MegatronLists {
  std::span<const std::byte> index;
  std::uint64_t sequences, documents;

  std::int32_t length(std::uint64_t i) const { return load<std::int32_t>(index, kMegatronHeader + 4 * i); }
  std::int64_t pointer(std::uint64_t i) const {
    return load<std::int64_t>(index, kMegatronHeader + 4 * sequences + 8 * i);
  }
  std::int64_t document(std::uint64_t i) const {
    return load<std::int64_t>(index, kMegatronHeader + 12 * sequences + 8 * i);
  }
};

MegatronLists find_lists(std::span<const std::byte> index, std::string_view file) {
  require(index.size() >= kMegatronHeader && std::memcmp(index.data(), kMegatronMagic.data(), 9) == 0,
          "{}: does not begin as an index of Megatron does (MMIDIDX)", file);
  const auto version = load<std::uint64_t>(index, 9);
  require(version == 1, "{}: version {} of Megatron's index, expected 1", file, version);
  const MegatronLists lists{index, load<std::uint64_t>(index, 18), load<std::uint64_t>(index, 26)};
  const std::uint64_t bytes = index.size() - kMegatronHeader;
  const bool fits = lists.sequences <= bytes / 12 && lists.documents <= (bytes - 12 * lists.sequences) / 8;
  const std::uint64_t left = fits ? bytes - 12 * lists.sequences - 8 * lists.documents : 0;
  require(fits, "{}: {} sequences and {} documents do not fit into {} bytes; is it complete?", file,
          lists.sequences, lists.documents, index.size());
  require(left == 0, "{}: {} bytes follow the list of documents{}", file, left,
          left == lists.sequences ? "; an index with modes (multimodal) cannot be read" : "");
  return lists;
}

struct Sequences {
  std::int64_t tokens = 0;                    // of all
  std::vector<std::int64_t> document_starts;  // in tokens; of documents that have any
};

// Lists cost time, and holes in a file cost their maker nothing: beside as many as there are tokens, some may
// be empty.
void check_counts(const MegatronLists& lists, std::uint64_t tokens, std::string_view file) {
  constexpr std::uint64_t kMostEmpty = 10'000'000;
  require(lists.sequences <= tokens + kMostEmpty, "{}: {} sequences of {} tokens: more than {} are empty",
          file, lists.sequences, tokens, kMostEmpty);
  require(lists.documents <= tokens + kMostEmpty, "{}: {} documents of {} tokens: more than {} are empty",
          file, lists.documents, tokens, kMostEmpty);
}

// The sequences must lie end to end, and the documents ascend among them. Both lists are as long as the file
// says, so what is kept is bounded by the tokens.
Sequences walk(const MegatronLists& lists, std::int64_t width, std::string_view file) {
  Sequences out;
  const std::int64_t first = lists.documents == 0 ? 0 : lists.document(0);
  require(first == 0, "{}: the first document begins with sequence {}, expected 0", file, first);
  std::uint64_t next = 0;  // document
  const auto begin_documents = [&](std::uint64_t sequence) {
    for (; next < lists.documents && lists.document(next) == static_cast<std::int64_t>(sequence); ++next)
      if (out.document_starts.empty() || out.tokens > out.document_starts.back())
        out.document_starts.push_back(out.tokens);
  };
  for (std::uint64_t i = 0; i < lists.sequences; ++i) {
    begin_documents(i);
    require(lists.length(i) >= 0, "{}: sequence {} has {} tokens", file, i, lists.length(i));
    require(lists.pointer(i) == out.tokens * width,
            "{}: sequence {} begins at byte {}, expected {}: sequences must follow each other without gaps",
            file, i, lists.pointer(i), out.tokens * width);
    require(!__builtin_add_overflow(out.tokens, lists.length(i), &out.tokens) &&
                out.tokens <= std::numeric_limits<std::int64_t>::max() / 8,
            "{}: sequence {} ends beyond 2^60 tokens", file, i);
  }
  begin_documents(lists.sequences);
  const std::int64_t before = next == 0 ? 0 : lists.document(next - 1);
  if (next < lists.documents)
    fail("{}: document {} begins with sequence {}, expected {} to {}", file, next, lists.document(next),
         before, lists.sequences);
  require(static_cast<std::uint64_t>(before) == lists.sequences,
          "{}: the documents end with sequence {} of {}", file, before, lists.sequences);
  if (!out.document_starts.empty() && out.document_starts.back() == out.tokens)
    out.document_starts.pop_back();
  return out;
}

template <class T>
void read_as(std::span<const std::byte> from, std::string_view file, std::int64_t begin,
             std::span<std::int32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto id = load<T>(from, i * sizeof(T));
    if (!std::in_range<std::int32_t>(id) || id < T(0))
      fail("{}: token {} is {}, which is not a token id", printable(file), begin + std::int64_t(i), id);
    out[i] = static_cast<std::int32_t>(std::make_unsigned_t<T>(id));
  }
}

}  // namespace

std::string_view name(TokenFormat format) {
  switch (format) {
    case TokenFormat::megatron:
      return "Megatron";
    case TokenFormat::llm_c:
      return "llm.c";
    case TokenFormat::nano_gpt:
      return "nanoGPT";
  }
  return "";
}

std::int64_t bytes(TokenType type) {
  switch (type) {
    case TokenType::u8:
    case TokenType::i8:
      return 1;
    case TokenType::i16:
    case TokenType::u16:
      return 2;
    case TokenType::i32:
    case TokenType::u32:
      return 4;
    case TokenType::i64:
      return 8;
  }
  return 0;
}

TokenLayout parse_megatron_index(std::span<const std::byte> index, std::uint64_t bin_bytes,
                                 std::string_view file) {
  const std::string shown = printable(file);
  const MegatronLists lists = find_lists(index, shown);
  const TokenType type = megatron_type(load<std::uint8_t>(index, 17), shown);
  check_counts(lists, bin_bytes / static_cast<std::uint64_t>(bytes(type)), shown);
  Sequences found = walk(lists, bytes(type), shown);
  const auto expected = static_cast<std::uint64_t>(found.tokens * bytes(type));
  require(expected == bin_bytes, "{}: describes {} bytes of tokens, and the .bin beside it has {}; {}", shown,
          expected, bin_bytes, expected > bin_bytes ? "is it complete?" : "do they belong together?");
  return {TokenFormat::megatron, type, 0, found.tokens, std::move(found.document_starts)};
}

TokenLayout parse_token_bin(std::span<const std::byte> whole_file, std::string_view file) {
  const std::string shown = printable(file);
  require(!whole_file.empty(), "{}: is empty; token ids were expected", shown);
  const std::int32_t magic = whole_file.size() >= 4 ? load<std::int32_t>(whole_file, 0) : 0;
  require(magic != kChoicesMagic, "{}: is a multiple-choice file of llm.c, and not one of running text",
          shown);
  if (magic != kGpt2Magic && magic != kLlama3Magic) {
    require(whole_file.size() % 2 == 0,
            "{}: its size, {} bytes, is odd, and tokens of 16 bits were expected (nanoGPT); is it complete, "
            "and a token file?",
            shown, whole_file.size());
    return {TokenFormat::nano_gpt, TokenType::u16, 0, std::int64_t(whole_file.size() / 2), {}};
  }
  require(whole_file.size() >= kLlmcHeader, "{}: {} bytes are too few for the header of llm.c ({})", shown,
          whole_file.size(), kLlmcHeader);
  const auto version = load<std::int32_t>(whole_file, 4), size = load<std::int32_t>(whole_file, 8);
  const std::int32_t expected = magic == kGpt2Magic ? 1 : 7;
  require(version == expected, "{}: version {} of llm.c's format {}, expected {}", shown, version, magic,
          expected);
  const TokenType type = magic == kGpt2Magic ? TokenType::u16 : TokenType::u32;
  const std::uint64_t data = whole_file.size() - kLlmcHeader;
  require(size >= 0 && std::uint64_t(size) * std::uint64_t(bytes(type)) == data,
          "{}: the header says {} tokens of {} bytes, and {} bytes follow; is it complete?", shown, size,
          bytes(type), data);
  return {TokenFormat::llm_c, type, kLlmcHeader, size, {}};
}

void read_tokens(const TokenLayout& layout, std::span<const std::byte> whole_file, std::string_view file,
                 std::int64_t begin, std::span<std::int32_t> out) {
  const auto count = static_cast<std::int64_t>(out.size());
  require(0 <= begin && begin <= layout.size && count <= layout.size - begin,
          "{}: has {} tokens; {} from token {} on were asked for", printable(file), layout.size, count,
          begin);
  const std::int64_t width = bytes(layout.type);
  const auto from =
      whole_file.subspan(layout.data_begin + std::uint64_t(begin * width), std::uint64_t(count * width));
  switch (layout.type) {
    case TokenType::u8:
      return read_as<std::uint8_t>(from, file, begin, out);
    case TokenType::i8:
      return read_as<std::int8_t>(from, file, begin, out);
    case TokenType::i16:
      return read_as<std::int16_t>(from, file, begin, out);
    case TokenType::u16:
      return read_as<std::uint16_t>(from, file, begin, out);
    case TokenType::i32:
      return read_as<std::int32_t>(from, file, begin, out);
    case TokenType::u32:
      return read_as<std::uint32_t>(from, file, begin, out);
    case TokenType::i64:
      return read_as<std::int64_t>(from, file, begin, out);
  }
}

}  // namespace upmoe
