#include "upmoe/cli/settings.h"

#include <toml++/toml.h>
#include <CLI/CLI.hpp>
#include <sstream>

#include "upmoe/io/file_descriptor.h"

namespace upmoe::cli {
namespace {

std::string recipe_value(const toml::node& node, const std::string& key, const std::string& where) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  throw UsageError(
      fmt::format("{}: the value of '{}' is neither text, a number, true nor false", where, printable(key)));
}

}  // namespace

void Settings::add(CLI::App& app, const OptionInfo& info, const std::string& group) {
  Entry& entry = entries_.emplace_back(Entry{info, nullptr, {}});
  const std::string choices = info.choices.empty() ? "" : " (" + join(info.choices, " | ") + ")";
  if (info.type == "flag") {
    entry.option = app.add_flag("--" + info.name, info.help);
  } else {
    entry.option = app.add_option("--" + info.name, entry.text, info.help + choices);
    entry.option->type_name(info.type == "number"    ? "X"
                            : info.type == "integer" ? "N"
                                                     : "TEXT")
        ->default_str(info.preset)
        ->take_last();
  }
  entry.option->group(group);
}

Values Settings::values(const std::filesystem::path& recipe, const std::vector<std::string>& also) const {
  Values out;
  std::vector<std::string> known = also;
  for (const Entry& entry : entries_) known.push_back(entry.info.name);
  if (!recipe.empty()) {
    const std::string where = printable(recipe.string());
    try {
      const std::string text = read_small_file(recipe, 1u << 20);
      for (const auto& [key, node] : toml::parse(text)) {
        const std::string name(key.str());
        if (std::ranges::find(known, name) == known.end())
          throw UsageError(fmt::format("{}: there is no option '{}'; there are: {}{}", where, printable(name),
                                       join(known), guess(name, known)));
        out[name] = recipe_value(node, name, where);
      }
    } catch (const toml::parse_error& error) {
      throw UsageError(
          fmt::format("{}: line {}: {}", where, error.source().begin.line, printable(error.description())));
    }
  }
  for (const Entry& entry : entries_)
    if (entry.option->count() > 0)
      out[entry.info.name] =
          entry.info.type == "flag" ? option_value::write(entry.option->as<bool>()) : entry.text;
  return out;
}

Values take(Values& values, const std::vector<OptionInfo>& options, const std::string& prefix) {
  Values out;
  for (const OptionInfo& option : options)
    if (auto node = values.extract(prefix + option.name)) out.emplace(option.name, std::move(node.mapped()));
  return out;
}

}  // namespace upmoe::cli
