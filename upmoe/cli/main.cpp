// upmoe: the program. A table of verbs, and the one place where errors are caught and printed.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "upmoe/base/error.h"
#include "upmoe/base/isa.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/commands.h"
#include "upmoe/convert/record.h"

namespace upmoe::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"convert", "turn a dense Llama or Mistral into a Mixture of Experts",
       "  upmoe convert ./SmolLM2-135M ./smol-8x --method drop --ratio 0.5 --experts 8 --top-k 2\n"
       "  upmoe convert ./SmolLM2-135M ./smol-8x --dry-run           # the plan, and nothing written\n"
       "  upmoe convert HuggingFaceTB/SmolLM2-135M ./smol-8x         # from the Hugging Face hub\n"
       "  upmoe convert ./SmolLM2-135M ./again --recipe ./smol-8x/upmoe-recipe.toml",
       convert_command, convert_options},
      {"inspect", "say what a checkpoint is: parameters, experts, clones, where it came from",
       "  upmoe inspect ./smol-8x\n  upmoe inspect ./smol-8x --json | python3 -m json.tool", inspect_command,
       json_option},
      {"methods", "list the upcycling methods with formula and source",
       "  upmoe methods\n  upmoe methods --json", methods_command, json_option},
      {"targets", "list the target architectures", "  upmoe targets", targets_command, json_option},
      {"router-inits", "list the ways in which a router can start", "  upmoe router-inits",
       router_inits_command, json_option},
      {"completion", "print a completion script for bash, zsh or fish",
       "  upmoe completion bash > ~/.local/share/bash-completion/completions/upmoe\n"
       "  upmoe completion zsh  > \"${fpath[1]}/_upmoe\"\n"
       "  upmoe completion fish > ~/.config/fish/completions/upmoe.fish",
       completion_command, no_options},
  };
  return all;
}

namespace {

constexpr const char* kFooter =
    "\nExit codes: 0 done, 1 failed, 2 the command line or a recipe is wrong, 130 interrupted.\n"
    "UPMOE_ISA=scalar|avx2|avx512 limits the vector instructions used; the bytes are the same with each.\n"
    "'upmoe VERB --help' has the options of a verb and examples.";

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> out;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
  return out;
}

[[noreturn]] void refuse_extra(const std::string& word, const CLI::App& app) {
  const std::string name = word.substr(0, word.find('='));
  if (!name.starts_with("-"))
    throw UsageError(
        fmt::format("'{}' is one argument too many for 'upmoe {}'", printable(word), app.get_name()));
  const std::vector<std::string> known = option_names(app);
  const std::string near = guess(name, known);
  throw UsageError(fmt::format("'upmoe {}' has no option '{}'{}", app.get_name(), printable(name),
                               near.empty() ? "; it has: " + join(known) : near));
}

int run(int argc, char** argv) {
  CLI::App app("upmoe turns a dense Llama-family checkpoint into a Mixture of Experts.", "upmoe");
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("upmoe ") + kVersion);
  app.allow_extras();
  std::vector<std::pair<CLI::App*, Action>> verbs;
  for (const Command& command : commands()) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    sub->footer(std::string("\nExamples:\n") + command.examples);
    sub->allow_extras();
    verbs.emplace_back(sub, command.attach(*sub));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& asked) {
    return app.exit(asked);
  } catch (const CLI::CallForVersion& asked) {
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    throw UsageError(printable(error.what()));
  }
  active_isa();  // a wrong UPMOE_ISA is told now, whatever the verb
  for (const auto& [sub, action] : verbs) {
    if (!sub->parsed()) continue;
    if (const std::vector<std::string> extra = sub->remaining(); !extra.empty())
      refuse_extra(extra.front(), *sub);
    if (const std::vector<std::string> extra = app.remaining(); !extra.empty())
      refuse_extra(extra.front(), *sub);
    return action();
  }
  if (const std::vector<std::string> extra = app.remaining(); !extra.empty()) {
    std::vector<std::string> names;
    for (const Command& command : commands()) names.emplace_back(command.name);
    throw UsageError(fmt::format("there is no command '{}'; there are: {}{}", printable(extra.front()),
                                 join(names), guess(extra.front(), names)));
  }
  std::cout << app.help();
  return kUsage;
}

}  // namespace
}  // namespace upmoe::cli

int main(int argc, char** argv) {
  using namespace upmoe;
  // A reader that went away and a file size limit are errors like others, so that destructors clean up.
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
  const auto say = [](const std::string& what) { std::fputs(("upmoe: " + what + "\n").c_str(), stderr); };
  try {
    const int code = cli::run(argc, argv);
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "cannot write to standard output");
    return code;
  } catch (const Interrupted& interrupted) {
    say(interrupted.what());
    return cli::kInterrupted;
  } catch (const UsageError& error) {
    say(error.what());
    return cli::kUsage;
  } catch (const Error& error) {
    say(error.what());
    return cli::kFailed;
  } catch (const std::filesystem::filesystem_error& error) {
    say(printable(error.path1().string()) + ": " + error.code().message());
    return cli::kFailed;
  } catch (const std::bad_alloc&) {
    say("out of memory");
    return cli::kFailed;
  } catch (const std::exception& error) {
    say(printable(error.what(), 400));
    return cli::kFailed;
  }
}
