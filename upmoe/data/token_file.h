#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "upmoe/data/token_layout.h"
#include "upmoe/io/mapped_file.h"

namespace upmoe {

// A file of token ids, mapped and checked: Megatron's .bin with its .idx beside it, llm.c's .bin or
// nanoGPT's. Safe to read from any thread.
class TokenFile {
 public:
  // The .bin, or of a Megatron pair also the .idx or the name that both share. Throws Error.
  explicit TokenFile(const std::filesystem::path& path);

  const std::string& name() const { return name_; }  // for messages: the path of the .bin
  TokenFormat format() const { return layout_.format; }
  std::int64_t size() const { return layout_.size; }

  // The file is removed after this, and stays readable here (MappedFile::forget_name). `called`: its name()
  // from here on.
  void forget_name(std::string called) {
    file_.forget_name();
    name_ = std::move(called);
  }

  // Ids begin, begin + 1, ... Throws Error for what is no id (negative, or beyond 31 bits), and when the file
  // has become shorter since.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;

  // Where documents begin, in tokens, ascending; documents without a token are left out. Empty for formats
  // that don't say: see document_starts(file, end) below.
  std::span<const std::int64_t> document_starts() const { return layout_.document_starts; }

  // Looks at the first `tokens` of them; 0: at all. Throws Error with the first that no vocabulary of this
  // size has.
  void require_ids_below(std::int64_t vocabulary, std::int64_t tokens = 0) const;

 private:
  MappedFile file_;
  std::string name_;
  TokenLayout layout_;
};

// Whether a path names a token file, by its name alone: it ends in .bin or .idx, or has both beside it.
bool is_token_file(const std::filesystem::path& path);

// Where documents begin in a file whose documents end with the token `end`. Looks at every token.
std::vector<std::int64_t> document_starts(const TokenFile& file, std::int32_t end);

}  // namespace upmoe
