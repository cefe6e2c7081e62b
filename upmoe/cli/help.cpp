#include "upmoe/cli/help.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <utility>

namespace upmoe::cli {
namespace {

constexpr std::size_t kColumn = 26;  // where texts begin

std::size_t width() {
  constexpr std::size_t kLeast = 40;
  std::size_t columns = 0;
  if (const char* const set = std::getenv("COLUMNS"))
    std::from_chars(set, set + std::string_view(set).size(), columns);
  winsize window{};
  if (columns == 0 && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0) columns = window.ws_col;
  return columns == 0 ? 80 : std::max(columns, kLeast);
}

const char* value_name(const OptionInfo& option) {
  if (option.type == "flag") return "";
  return option.type == "number"    ? " X"
         : option.type == "integer" ? " N"
         : option.type == "file"    ? " FILE"
         : !option.choices.empty()  ? " NAME"
                                    : " TEXT";
}

}  // namespace

std::string wrapped(std::string_view text, std::size_t width, std::size_t indent, std::size_t used) {
  std::string out;
  std::size_t at = used;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    const bool first = at == used && out.empty();
    if (!first && at + 1 + word.size() > width) {
      out += "\n" + std::string(indent, ' ');
      at = indent;
    } else if (!first) {
      out += ' ';
      ++at;
    }
    out += word;
    at += word.size();
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

std::string help_line(const std::string& name, const std::string& text) {
  std::string out = "  " + name;
  if (text.empty()) return out + "\n";
  if (out.size() + 2 > kColumn)
    out += "\n" + std::string(kColumn, ' ');
  else
    out.resize(kColumn, ' ');
  return out + wrapped(text, width(), kColumn, kColumn) + "\n";
}

std::string help_name(const OptionInfo& option, const std::string& prefix) {
  return "--" + prefix + option.name + value_name(option);
}

std::string help_text(const OptionInfo& option) {
  std::string out = option.help;
  if (!option.choices.empty()) out += ": " + join(option.choices, " | ");
  if (option.type != "flag" && !option.preset.empty()) out += fmt::format(" [{}]", option.preset);
  return out;
}

HelpFormatter::HelpFormatter() { label("Positionals", "Arguments"); }

// The parser puts two blank lines where one group ends and another begins.
std::string HelpFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const {
  std::string out = Formatter::make_help(app, std::move(name), mode);
  for (std::size_t at = out.find("\n\n\n"); at != std::string::npos; at = out.find("\n\n\n"))
    out.erase(at, 1);
  return out;
}

std::string HelpFormatter::make_usage(const CLI::App* app, std::string name) const {
  std::string out = "\nUsage: " + (name.empty() ? app->get_name() : name);
  if (!app->get_subcommands({}).empty()) return out + " COMMAND [OPTIONS]\n";
  if (app->get_parent() != nullptr && name.empty()) out = "\nUsage: upmoe " + app->get_name();
  for (const CLI::Option* option : app->get_options()) {
    if (!option->get_positional()) continue;
    const std::string& text = option->get_option_text();  // of what may be left out
    out += " " + (text.empty() ? option->get_name(true, false) : text) +
           (option->get_expected_max() > 1 ? "..." : "");
  }
  return out + " [OPTIONS]\n";
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return wrapped(app->get_description(), width(), 0, 0) + "\n";
}

std::string HelpFormatter::make_subcommand(const CLI::App* sub) const {
  return help_line(sub->get_name(), sub->get_description());
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  const bool takes_value = !is_positional && option->get_type_size() != 0;
  const std::string type =
      takes_value && !option->get_type_name().empty() ? " " + option->get_type_name() : "";
  std::string name = make_option_name(option, is_positional);
  if (const std::size_t comma = name.find(','); comma != std::string::npos) name.insert(comma + 1, " ");
  return help_line(name + type, option->get_description());
}

}  // namespace upmoe::cli
