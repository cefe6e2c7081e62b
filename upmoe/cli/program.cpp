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
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/output.h"
#include "upmoe/convert/record.h"

namespace upmoe::cli {
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

int run(const std::vector<Command>& commands, int argc, char** argv) {
  CLI::App app("upmoe turns a dense Llama-family checkpoint into a Mixture of Experts.", "upmoe");
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("upmoe ") + kVersion);
  app.allow_extras();
  std::vector<std::pair<CLI::App*, Action>> verbs;
  for (const Command& command : commands) {
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
    for (const Command& command : commands) names.emplace_back(command.name);
    throw UsageError(fmt::format("there is no command '{}'; there are: {}{}", printable(extra.front()),
                                 join(names), guess(extra.front(), names)));
  }
  fmt::print("{}", app.help());
  return kUsage;
}

}  // namespace

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
