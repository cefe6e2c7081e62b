#include "upmoe/checkpoint/plain_yaml.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace upmoe {
namespace {

std::string_view trim(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

// In quotes that hold neither quotes of their kind nor escapes.
bool is_quoted(std::string_view text) {
  if (text.size() < 2 || text.front() != text.back() || (text.front() != '"' && text.front() != '\''))
    return false;
  const std::string_view inner = text.substr(1, text.size() - 2);
  return inner.find(text.front()) == std::string_view::npos && inner.find('\\') == std::string_view::npos;
}

// Begins as text does. What begins with a digit could be a date or a number that some parsers trip over,
// unless a letter shows that it is neither ("0bsd").
bool is_word(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  if (std::isdigit(first) != 0)
    return std::ranges::any_of(text, [](unsigned char c) {
      return std::isalpha(c) != 0 &&
             std::string_view("abcdefotxz").find(static_cast<char>(std::tolower(c))) ==
                 std::string_view::npos;
    });
  return std::isalpha(first) != 0 || first == '_' || first >= 0x80;
}

// `forbidden`: what would end the value where it stands.
bool is_value(std::string_view text, std::string_view forbidden) {
  text = trim(text);
  if (text.empty()) return false;
  if (is_quoted(text)) return true;
  return is_word(text) && !text.ends_with(':') && text.find(": ") == std::string_view::npos &&
         text.find_first_of(forbidden) == std::string_view::npos;
}

bool is_list(std::string_view text) {
  if (!text.starts_with('[') || !text.ends_with(']')) return false;
  text = trim(text.substr(1, text.size() - 2));
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (!is_value(text.substr(0, comma), "[]{}\"'#")) return false;
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return true;
}

}  // namespace

bool is_plain_yaml(std::span<const std::string> lines) {
  const std::string_view head = lines.front();
  const std::string_view value = trim(head.substr(std::min(head.find(':') + 1, head.size())));
  // "key:value" is no key at all.
  if (!value.empty() && head[head.find(':') + 1] != ' ') return false;
  if (!value.empty()) return lines.size() == 1 && (is_list(value) || is_value(value, ""));
  const std::size_t indent = lines.size() > 1 ? lines[1].find_first_not_of(' ') : 0;
  return std::ranges::all_of(lines.subspan(1), [&](std::string_view line) {
    return indent < line.size() && line.find_first_not_of(' ') == indent &&
           line.substr(indent).starts_with("- ") && is_value(line.substr(indent + 2), "");
  });
}

}  // namespace upmoe
