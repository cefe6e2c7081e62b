#include "upmoe/cli/settings.h"

#include <CLI/CLI.hpp>

#include "upmoe/cli/recipe.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe::cli {
namespace {

constexpr const char* kReplace = "replace";

}  // namespace

void Settings::add(CLI::App& app, const OptionInfo& info, const std::string& group) {
  Entry& entry = entries_.emplace_back(Entry{info, nullptr, {}});
  const std::string choices = info.choices.empty() ? "" : " (" + join(info.choices, " | ") + ")";
  if (info.type == "flag") {
    const char* also = info.name == kReplace ? ",--force" : "";  // its old name
    entry.option = app.add_flag("--" + info.name + also, info.help);
  } else if (info.type == "list") {
    entry.option = app.add_option("--" + info.name, entry.text, info.help + choices);
    entry.option->type_name("NAME")->join(',');
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
  std::vector<std::string> known = also, lists;
  for (const Entry& entry : entries_) {
    known.push_back(entry.info.name);
    if (entry.info.type == "list") lists.push_back(entry.info.name);
  }
  if (!recipe.empty()) out = parse_recipe(read_small_file(recipe, 1u << 20), recipe.string(), known, lists);
  if (out.contains(kReplace))
    throw UsageError(
        fmt::format("{}: '{}' is said on the command line only, so that no recipe deletes anything",
                    printable(recipe.string()), kReplace));
  for (const Entry& entry : entries_) {
    if (entry.option->count() == 0) continue;
    std::string& value = out[entry.info.name];
    if (entry.info.type == "list" && !value.empty())
      value += "," + entry.text;
    else
      value = entry.info.type == "flag" ? option_value::write(entry.option->as<bool>()) : entry.text;
  }
  return out;
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
