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
    field_(field, "field", "key of the text in each line of a .jsonl file");
    field_(eod, "eod", "token id at the end of each document, or auto: the model's eos_token_id, or none");
    field_(add_bos, "add-bos", "begin each document with the model's bos_token_id");
    field_(max_tokens, "max-tokens", "stop after this many tokens; 0: no limit");
    field_(threads, "threads", "threads that encode; 0: one per core");
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
    throw UsageError(fmt::format("missing {}; usage: upmoe tokenize MODEL FILES... -o OUT",
                                 arguments.model.empty()   ? "MODEL"
                                 : arguments.files.empty() ? "FILES"
                                                           : "-o OUT"));
  const auto options = parse<TokenizeOptions>(arguments.settings.values(), "tokenize");
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
  out.push_back({"output", "", "write OUT.bin and OUT.idx", {}, "file"});
  return out;
}

Action tokenize_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("MODEL", arguments->model,
                 "folder with tokenizer.json, or a hub id: owner/name or owner/name@revision");
  app.add_option("FILES", arguments->files, "text files, .jsonl files, or folders of them")->type_name("");
  app.add_option("-o,--output", arguments->output, "write OUT.bin and OUT.idx")->type_name("OUT");
  for (const OptionInfo& option : describe<TokenizeOptions>())
    arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
