#include "upmoe/cli/program.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "upmoe/base/error.h"
#include "upmoe/base/isa.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/help.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/output.h"
#include "upmoe/convert/record.h"

namespace upmoe::cli {
namespace {

constexpr const char* kFooter =
    "\nExit codes: 0 done, 1 failed, 2 the command line or a recipe is wrong,\n"
    "130 interrupted, 141 nobody reads the output any more.\n"
    "UPMOE_ISA=scalar|avx2|avx512 limits the vector instructions; the output has\n"
    "the same bytes with each.\n"
    "'upmoe help COMMAND' shows the options of a command, with examples.";

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> out;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
  return out;
}

// What the parser had no place for; "--" ends the options and is none.
std::string first_extra(const CLI::App& app) {
  for (const std::string& word : app.remaining())
    if (word != "--") return word;
  return "";
}

[[noreturn]] void refuse_extra(const std::string& word, const CLI::App& app) {
  const std::string name = word.substr(0, word.find('='));
  if (!name.starts_with("-"))
    throw UsageError(
        fmt::format("'{}' is one argument too many for 'upmoe {}'", printable(word), app.get_name()));
  const std::string near = guess(name, option_names(app));
  throw UsageError(fmt::format("'upmoe {}' has no option '{}'{}", app.get_name(), printable(name),
                               near.empty() ? fmt::format("; see upmoe {} --help", app.get_name()) : near));
}

[[noreturn]] void refuse_verb(const std::string& word, const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& command : commands) names.emplace_back(command.name);
  const std::string near = guess(word, names);
  throw UsageError(fmt::format("there is no {} '{}'{}", word.starts_with("-") ? "option" : "command",
                               printable(word), near.empty() ? "; see upmoe --help" : near));
}

int run(const std::vector<Command>& commands, int argc, char** argv) {
  CLI::App app("upmoe turns a dense Llama-family checkpoint into a Mixture of Experts.", "upmoe");
  app.footer(kFooter);
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_help_flag("-h,--help", "print this help");
  app.set_version_flag("-V,--version", std::string("upmoe ") + kVersion, "print the version");
  app.allow_extras();
  std::vector<std::pair<CLI::App*, Action>> verbs;
  for (const Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    sub->group("Commands")->footer(std::string("\nExamples:\n") + command.examples);
    sub->allow_extras();
    verbs.emplace_back(sub, command.attach(*sub));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& asked) {
    if (const std::string extra = first_extra(app); app.get_subcommands().empty() && !extra.empty())
      refuse_verb(extra, commands);
    return app.exit(asked);
  } catch (const CLI::CallForVersion& asked) {
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    throw UsageError(printable(error.what()));
  }
  active_isa();  // a wrong UPMOE_ISA is told now, whatever the verb
  for (const auto& [sub, action] : verbs) {
    if (!sub->parsed()) continue;
    for (const CLI::App* parser : {static_cast<const CLI::App*>(sub), static_cast<const CLI::App*>(&app)})
      if (const std::string extra = first_extra(*parser); !extra.empty()) refuse_extra(extra, *sub);
    return action();
  }
  if (const std::string extra = first_extra(app); !extra.empty()) refuse_verb(extra, commands);
  fmt::print("{}", app.help());
  return kUsage;
}

}  // namespace

void read_help_verb(int argc, char** argv) {
  static char help[] = "--help";
  if (argc < 2 || std::string_view(argv[1]) != "help") return;
  if (argc > 2) argv[1] = argv[2];
  argv[argc > 2 ? 2 : 1] = help;
}

int run_program(const std::vector<Command>& commands, int argc, char** argv) {
  // A reader that went away and a file size limit unwind like errors, so that destructors clean up.
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
  end_when_interrupted();
  const auto say = [](const std::string& what) { std::fputs(("upmoe: " + what + "\n").c_str(), stderr); };
  try {
    const int code = run(commands, argc, argv);
    try {
      flush_output();
    } catch (const ReaderGone&) {  // after all was done
    }
    return code;
  } catch (const ReaderGone&) {
    return kReaderGone;
  } catch (const Interrupted& interrupted) {
    say(interrupted.what());
    return kInterrupted;
  } catch (const UsageError& error) {
    say(error.what());
    return kUsage;
  } catch (const Error& error) {
    say(error.what());
    return kFailed;
  } catch (const std::filesystem::filesystem_error& error) {
    say(printable(error.path1().string()) + ": " + error.code().message());
    return kFailed;
  } catch (const std::system_error& error) {
    if (error.code().value() == EPIPE) return kReaderGone;  // of fmt::print
    say(printable(error.what(), 400));
    return kFailed;
  } catch (const std::bad_alloc&) {
    say("out of memory");
    return kFailed;
  } catch (const std::exception& error) {
    say(printable(error.what(), 400));
    return kFailed;
  }
}

}  // namespace upmoe::cli
