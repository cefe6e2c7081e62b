#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace upmoe {

// How token ids lie in a file, and where its documents begin (docs/formats.md has the grammars).
enum class TokenFormat { megatron, llm_c, nano_gpt };
enum class TokenType { u8, i8, i16, u16, i32, u32, i64 };

std::string_view name(TokenFormat format);  // "Megatron", "llm.c", "nanoGPT"
std::int64_t bytes(TokenType type);

struct TokenLayout {
  TokenFormat format = TokenFormat::nano_gpt;
  TokenType type = TokenType::u16;
  std::uint64_t data_begin = 0;               // bytes from the start of the file
  std::int64_t size = 0;                      // tokens
  std::vector<std::int64_t> document_starts;  // ascending, none twice; empty where the format knows of none
};

// The .idx of a Megatron pair whose .bin has `bin_bytes` bytes. `file` is the index's name, for messages.
TokenLayout parse_megatron_index(std::span<const std::byte> index, std::uint64_t bin_bytes,
                                 std::string_view file);

// A file that no .idx belongs to: of llm.c by its magic number, otherwise of nanoGPT, which has no header.
TokenLayout parse_token_bin(std::span<const std::byte> whole_file, std::string_view file);

// Ids begin, begin + 1, ... of the whole file's bytes; every one that is given is within [0, 2^31).
// Throws Error for one that is not, which names it and its place.
void read_tokens(const TokenLayout& layout, std::span<const std::byte> whole_file, std::string_view file,
                 std::int64_t begin, std::span<std::int32_t> out);

}  // namespace upmoe
