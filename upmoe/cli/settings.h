#pragma once
#include <deque>
#include <filesystem>
#include <string>
#include <vector>

#include "upmoe/base/options.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace upmoe::cli {

// The options of a verb as text, from the command line and from a recipe: both go through the same parsing.
class Settings {
 public:
  // Adds an option to the parser. `group` is its heading in --help.
  void add(CLI::App& app, const OptionInfo& option, const std::string& group);

  // What the command line says of an option, as it stands there; empty where it says nothing.
  std::string given(const std::string& name) const;

  // What a recipe says: a TOML file of the same names, "-" for standard input, empty for none. An unknown key
  // is an error, and so is "replace": that is said, not remembered. `also`: keys that are no options.
  Values recipe(const std::filesystem::path& path, const std::vector<std::string>& also) const;

  // After parsing: that, and over it what the command line says, which adds to a list.
  Values values(Values recipe = {}) const;

 private:
  struct Entry {
    OptionInfo info;
    CLI::Option* option;
    std::string text;
  };
  std::deque<Entry> entries_;  // never moves: the parser keeps pointers to the texts
};

// Adds an option that names files, one each time that it is given.
void add_files(CLI::App& app, const std::string& name, std::vector<std::string>& files,
               const std::string& help);

// Moves the values of these options out of `values`, where `prefix` stands before their names.
Values take(Values& values, const std::vector<OptionInfo>& options, const std::string& prefix = "");

}  // namespace upmoe::cli
