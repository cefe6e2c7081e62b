#include "upmoe/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "upmoe/base/error.h"

namespace upmoe {
namespace {

// Marks, embeddings, overrides and isolates, with which text can show another order than it has ("Trojan
// Source", arXiv:2111.00169), and the two separators that break a line.
bool reorders_or_breaks_lines(std::string_view character) {
  static constexpr std::array<std::string_view, 14> kSuch = {"\u061C", "\u200E", "\u200F", "\u2028", "\u2029",
                                                             "\u202A", "\u202B", "\u202C", "\u202D", "\u202E",
                                                             "\u2066", "\u2067", "\u2068", "\u2069"};
  return character.size() > 1 && std::ranges::find(kSuch, character) != kSuch.end();
}

// Length of the valid UTF-8 sequence that starts at `i` and may be shown, or 0.
std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char lead = byte(i);
  const std::size_t length = lead < 0x80   ? 1
                             : lead < 0xC2 ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
  if (length == 0 || i + length > text.size()) return 0;
  for (std::size_t k = 1; k < length; ++k)
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
  if (length == 2 && lead == 0xC2 && byte(i + 1) < 0xA0) return 0;   // C1 control characters
  if (length == 3 && lead == 0xE0 && byte(i + 1) < 0xA0) return 0;   // overlong
  if (length == 3 && lead == 0xED && byte(i + 1) >= 0xA0) return 0;  // surrogates
  if (length == 4 && lead == 0xF0 && byte(i + 1) < 0x90) return 0;   // overlong
  if (length == 4 && lead == 0xF4 && byte(i + 1) >= 0x90) return 0;  // beyond U+10FFFF
  return reorders_or_breaks_lines(text.substr(i, length)) ? 0 : length;
}

std::string scaled(double value, std::span<const char* const> units) {
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) value /= 1000, ++unit;
  if (unit == 0) return fmt::format("{:.0f}{}", value, units[0]);
  return fmt::format("{:.{}f}{}", value, value < 9.995 ? 2 : 1, units[unit]);
}

// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        next[j] = std::min(next[j], before[j - 2] + 1);
    }
    before.swap(row);
    row.swap(next);
  }
  return row[b.size()];
}

}  // namespace

std::string printable(std::string_view text, std::size_t most) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (out.size() >= most) return out + "...";
    const std::size_t length = utf8_length(text, i);
    const auto byte = static_cast<unsigned char>(text[i]);
    if (length == 0 || byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
      ++i;
    } else {
      out.append(text, i, length);
      i += length;
    }
  }
  return out;
}

std::string human_bytes(std::uint64_t bytes) {
  static constexpr std::array kUnits = {" B", " kB", " MB", " GB", " TB", " PB"};
  return scaled(static_cast<double>(bytes), kUnits);
}

std::string human_count(std::uint64_t number) {
  static constexpr std::array kUnits = {"", " k", " M", " B", " T"};
  return scaled(static_cast<double>(number), kUnits);
}

std::string join(std::span<const std::string> words, std::string_view separator) {
  std::string out;
  for (const std::string& word : words) {
    if (!out.empty()) out += separator;
    out += word;
  }
  return out;
}

std::string shell_word(std::string_view text) {
  const auto is_plain = [](char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') ||
           std::string_view("-_./,:+@%").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::ranges::all_of(text, is_plain)) return std::string(text);
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string plural(std::int64_t number, std::string_view what) {
  return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
}

std::uint64_t parse_bytes(std::string_view text, std::string_view what) {
  struct Unit {
    std::string_view name;
    std::uint64_t bytes;
  };
  static constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                                   {"B", 1},
                                                   {"KB", 1000},
                                                   {"kB", 1000},
                                                   {"MB", 1000'000},
                                                   {"GB", 1000'000'000},
                                                   {"TB", 1000'000'000'000},
                                                   {"KiB", 1ull << 10},
                                                   {"MiB", 1ull << 20},
                                                   {"GiB", 1ull << 30}}};
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const auto* unit = std::ranges::find(kUnits, suffix, &Unit::name);
  const double bytes = unit == kUnits.end() ? 0 : std::floor(number * static_cast<double>(unit->bytes));
  if (error == std::errc() && suffix.empty() && bytes >= 1 && bytes < 1000)
    throw UsageError(fmt::format("{}: '{}' has no unit; write for example {}GB, {}MiB or {}B", what,
                                 printable(text), text, text, text));
  if (error != std::errc() || !(bytes >= 1 && bytes <= 9e18))  // nor NaN
    throw UsageError(fmt::format("{}: '{}' is not a size; write for example 5GB, 512MiB or 1000000", what,
                                 printable(text)));
  return static_cast<std::uint64_t>(bytes);
}

std::string guess(std::string_view word, std::span<const std::string> candidates) {
  if (word.size() > 200) return "";
  std::size_t best = std::numeric_limits<std::size_t>::max();
  const std::string* nearest = nullptr;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > 200) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best) best = distance, nearest = &candidate;
  }
  // A third of the letters may differ, and of short words one; not all of them.
  const std::size_t length = nearest == nullptr ? 0 : std::max(word.size(), nearest->size());
  if (best > std::max<std::size_t>(1, length / 3) || best >= word.size()) return "";
  return fmt::format("; did you mean '{}'?", printable(*nearest));
}

}  // namespace upmoe
