#include "upmoe/data/token_file.h"

#include <algorithm>
#include <array>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

fs::path with_ending(const fs::path& path, const char* ending) {
  const fs::path last = path.extension();
  if (last == ending) return path;
  return last == ".bin" || last == ".idx" ? fs::path(path).replace_extension(ending)
                                          : fs::path(path.string() + ending);
}

// A file whose own name has no such ending, as nanoGPT's may, is the .bin itself.
fs::path bin_of(const fs::path& path) {
  return fs::is_regular_file(path) && path.extension() != ".idx" ? path : with_ending(path, ".bin");
}

TokenLayout layout_of(const MappedFile& bin, const fs::path& asked) {
  const fs::path index_path = with_ending(bin.path(), ".idx");
  if (asked.extension() != ".idx" && !fs::exists(index_path)) {
    const TokenLayout layout = parse_token_bin(bin.bytes(), bin.path().string());
    bin.require_intact();
    return layout;
  }
  const MappedFile index(index_path);
  TokenLayout layout = parse_megatron_index(index.bytes(), bin.bytes().size(), index_path.string());
  index.require_intact();
  return layout;
}

// work(begin, ids) over the first `tokens` of the file, some at a time.
void for_each_piece(const TokenFile& file, std::int64_t tokens, auto&& work) {
  std::array<std::int32_t, 8192> piece{};
  for (std::int64_t begin = 0; begin < tokens;) {
    const std::int64_t count = std::min<std::int64_t>(piece.size(), tokens - begin);
    const std::span<std::int32_t> ids(piece.data(), static_cast<std::size_t>(count));
    file.read(begin, ids);
    work(begin, std::span<const std::int32_t>(ids));
    begin += count;
  }
}

}  // namespace

TokenFile::TokenFile(const fs::path& path)
    : file_(bin_of(path)), name_(file_.path().string()), layout_(layout_of(file_, path)) {}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> out) const {
  try {
    read_tokens(layout_, file_.bytes(), name_, begin, out);
  } catch (const Error&) {
    file_.require_intact();  // which then is the reason
    throw;
  }
  file_.require_intact();
}

void TokenFile::require_ids_below(std::int64_t vocabulary, std::int64_t tokens) const {
  for_each_piece(
      *this, tokens == 0 ? size() : std::min(tokens, size()),
      [&](std::int64_t begin, std::span<const std::int32_t> ids) {
        const auto bad = std::ranges::find_if(ids, [&](std::int32_t id) { return id >= vocabulary; });
        require(bad == ids.end(),
                "{}: token {} is {}, and the vocabulary ends at {}; was it made with another tokenizer?",
                printable(name_), begin + (bad - ids.begin()), bad == ids.end() ? 0 : *bad, vocabulary - 1);
      });
}

bool is_token_file(const fs::path& path) {
  return path.extension() == ".bin" || path.extension() == ".idx" ||
         (!fs::exists(path) && fs::exists(with_ending(path, ".bin")) &&
          fs::exists(with_ending(path, ".idx")));
}

std::vector<std::int64_t> document_starts(const TokenFile& file, std::int32_t end) {
  std::vector<std::int64_t> starts;
  if (file.size() > 0) starts.push_back(0);
  for_each_piece(file, file.size(), [&](std::int64_t begin, std::span<const std::int32_t> ids) {
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == end && begin + std::int64_t(i) + 1 < file.size())
        starts.push_back(begin + std::int64_t(i) + 1);
  });
  return starts;
}

}  // namespace upmoe
