#include "upmoe/cli/recipe.h"

#include <toml++/toml.h>

#include <algorithm>

namespace upmoe::cli {
namespace {

std::string value_text(const toml::node& node, const std::string& key, const std::string& where) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  throw UsageError(
      fmt::format("{}: the value of '{}' is neither text, a number, true nor false", where, printable(key)));
}

std::string list_text(const toml::array& list, const std::string& key, const std::string& where) {
  std::vector<std::string> out;
  for (const toml::node& node : list)
    if (const auto text = node.value_exact<std::string>())
      out.push_back(*text);
    else
      throw UsageError(fmt::format("{}: '{}' is a list of more than texts", where, printable(key)));
  return join(out, ",");
}

// The parser makes a table of each part of a key, and needs stack for each that is within another. A key does
// not go on in the next line; of which dots are a key's only the parser knows.
void require_shallow(std::string_view text, const std::string& where) {
  constexpr std::ptrdiff_t kMostDots = 1000;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (std::ranges::count(line, '.') > kMostDots)
      throw UsageError(
          fmt::format("{}: line {}: has more than {} dots; is it a recipe?", where, number, kMostDots));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
}

}  // namespace

Values parse_recipe(std::string_view text, std::string_view where, const std::vector<std::string>& known,
                    const std::vector<std::string>& lists, const std::vector<std::string>& unnamed) {
  const std::string shown = printable(where);
  require_shallow(text, shown);
  Values out;
  try {
    for (const auto& [key, node] : toml::parse(text)) {
      const std::string name(key.str());
      if (std::ranges::find(known, name) == known.end() && std::ranges::find(unnamed, name) == unnamed.end())
        throw UsageError(fmt::format("{}: there is no option '{}'; there are: {}{}", shown, printable(name),
                                     join(known), guess(name, known)));
      const bool is_list = node.is_array() && std::ranges::find(lists, name) != lists.end();
      out[name] = is_list ? list_text(*node.as_array(), name, shown) : value_text(node, name, shown);
    }
  } catch (const toml::parse_error& error) {
    throw UsageError(
        fmt::format("{}: line {}: {}", shown, error.source().begin.line, printable(error.description())));
  }
  return out;
}

}  // namespace upmoe::cli
