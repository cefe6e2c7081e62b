// tokenize: what is said on the command line is checked here, and the work is Python's
// (python/upmoe/tokenize.py).
#include <CLI/CLI.hpp>
#include <memory>

#include "upmoe/cli/commands.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/python.h"
#include "upmoe/cli/settings.h"

namespace upmoe::cli {
namespace {

struct TokenizeOptions {
  std::string field = "text", eod = "auto";
  bool add_bos = false;
  std::int64_t max_tokens = 0, threads = 0;
  bool replace = false;
  void visit(auto&& field_) {
    field_(field, "field", "of a .jsonl line, the text");
    field_(eod, "eod", "id at the end of each document; auto: the model's eos_token_id; none");
    field_(add_bos, "add-bos", "put the model's bos_token_id before each document");
    field_(max_tokens, "max-tokens", "stop after so many tokens; 0: no limit");
    field_(threads, "threads", "threads that encode; 0: as there are cores");
    field_(replace, "replace", "replace an existing output");
  }
};

struct Arguments {
  Settings settings;
  std::string model, output;
  std::vector<std::string> files;
};

int run(const Arguments& arguments) {
  if (arguments.model.empty() || arguments.files.empty() || arguments.output.empty())
    throw UsageError("name the model, the texts and the output: upmoe tokenize MODEL FILES... -o OUT");
  const auto options = parse<TokenizeOptions>(arguments.settings.values("", {}), "tokenize");
  std::vector<std::string> all = {"tokenize", "--output=" + arguments.output};
  for (const OptionInfo& option : describe(options))
    if (option.type != "flag")
      all.push_back("--" + option.name + "=" + option.preset);
    else if (option.preset == "true")
      all.push_back("--" + option.name);
  all.insert(all.end(), {"--", find_source(arguments.model).folder.string()});
  all.insert(all.end(), arguments.files.begin(), arguments.files.end());
  become_upmoe_python(all);
}

}  // namespace

std::vector<OptionInfo> tokenize_options() {
  std::vector<OptionInfo> out = describe<TokenizeOptions>();
  out.push_back({"output", "", "OUT.bin and OUT.idx are written", {}, "file"});
  return out;
}

Action tokenize_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("MODEL", arguments->model,
                 "folder with tokenizer.json, or a hub id: owner/name or owner/name@revision");
  app.add_option("FILES", arguments->files, "text files, .jsonl, folders of such")->type_name("");
  app.add_option("-o,--output", arguments->output, "OUT.bin and OUT.idx are written")->type_name("OUT");
  for (const OptionInfo& option : describe<TokenizeOptions>())
    arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
