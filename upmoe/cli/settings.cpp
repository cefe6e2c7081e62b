#include "upmoe/cli/settings.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "upmoe/base/error.h"
#include "upmoe/cli/help.h"
#include "upmoe/cli/recipe.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe::cli {
namespace {

constexpr const char* kReplace = "replace";
constexpr const char* kForce = "force";         // of recipes up to 0.1.0; its verb says what becomes of it
constexpr std::uint64_t kMostBytes = 1u << 20;  // of a recipe

// Of the file, or of standard input for "-". What cannot be read is as wrong as what cannot be parsed.
std::string recipe_text(const std::filesystem::path& path) try {
  if (path != "-") return read_small_file(path, kMostBytes);
  std::string out(kMostBytes + 1, '\0');
  out.resize(std::fread(out.data(), 1, out.size(), stdin));
  require(std::ferror(stdin) == 0, "cannot read standard input: {}", ErrnoText{});
  require(out.size() <= kMostBytes, "standard input: has more than {} bytes; is it a recipe?", kMostBytes);
  return out;
} catch (const UsageError&) {
  throw;
} catch (const Error& error) {
  throw UsageError(error.what());
}

}  // namespace

void Settings::add(CLI::App& app, const OptionInfo& info, const std::string& group) {
  Entry& entry = entries_.emplace_back(Entry{info, nullptr, {}});
  std::string names = "--" + info.name;
  if (info.name == kReplace) names += ",--force";  // its old name
  if (info.name == "quiet") names = "-q," + names;
  if (info.type == "flag") {
    const std::string help = help_text(info);
    entry.option = app.add_flag(names, help);
  } else {
    entry.option = app.add_option(names, entry.text, help_text(info));
    const std::string shown = help_name(info);
    entry.option->type_name(shown.substr(shown.find(' ') + 1));
    if (info.type == "list")
      entry.option->join(',');
    else
      entry.option->take_last();
  }
  entry.option->group(group);
}

std::string Settings::given(const std::string& name) const {
  for (const Entry& entry : entries_)
    if (entry.info.name == name && entry.option->count() > 0) return entry.option->results().back();
  return "";
}

Values Settings::recipe(const std::filesystem::path& path, const std::vector<std::string>& also) const {
  if (path.empty()) return {};
  std::vector<std::string> known = also, lists;
  for (const Entry& entry : entries_) {
    if (entry.info.name != kReplace) known.push_back(entry.info.name);
    if (entry.info.type == "list") lists.push_back(entry.info.name);
  }
  const std::string where = path == "-" ? "standard input" : path.string();
  const Values out = parse_recipe(recipe_text(path), where, known, lists,
                                  /*unnamed=*/{kReplace, kForce});
  if (out.contains(kReplace))
    throw UsageError(
        fmt::format("{}: '{}' is said on the command line only, so that no recipe deletes anything",
                    printable(where), kReplace));
  return out;
}

Values Settings::values(Values recipe) const {
  for (const Entry& entry : entries_) {
    if (entry.option->count() == 0) continue;
    std::string& value = recipe[entry.info.name];
    if (entry.info.type == "list" && !value.empty())
      value += "," + entry.text;
    else
      value = entry.info.type == "flag" ? option_value::write(entry.option->as<bool>()) : entry.text;
  }
  return recipe;
}

void add_files(CLI::App& app, const std::string& name, std::vector<std::string>& files,
               const std::string& help) {
  app.add_option(name, files, help)->type_name("FILE")->allow_extra_args(false);
}

Values take(Values& values, const std::vector<OptionInfo>& options, const std::string& prefix) {
  Values out;
  for (const OptionInfo& option : options)
    if (auto node = values.extract(prefix + option.name)) out.emplace(option.name, std::move(node.mapped()));
  return out;
}

}  // namespace upmoe::cli
