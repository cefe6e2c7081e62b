#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/base/options.h"

namespace upmoe::cli {

// --help as all verbs print it: a line for each option, its default behind it, wrapped to the terminal's
// width (COLUMNS, or what the terminal says, or 80).
class HelpFormatter final : public CLI::Formatter {
 public:
  HelpFormatter();

  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
  std::string make_usage(const CLI::App* app, std::string name) const override;
  std::string make_description(const CLI::App* app) const override;
  std::string make_subcommand(const CLI::App* sub) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
};

// The line of an option in --help, or its lines.
std::string help_line(const std::string& name, const std::string& text);

// "--ratio X" and "share of ..., 0 to 1 [0.5]".
std::string help_name(const OptionInfo& option, const std::string& prefix = "");
std::string help_text(const OptionInfo& option);

// Lines of at most `width` characters, broken between words; those after the first begin with `indent`
// spaces. `used`: characters that the first line has already.
std::string wrapped(std::string_view text, std::size_t width, std::size_t indent, std::size_t used);

}  // namespace upmoe::cli
