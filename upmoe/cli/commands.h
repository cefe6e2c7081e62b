#pragma once
#include <functional>
#include <string>
#include <vector>

#include "upmoe/base/options.h"

namespace CLI {
class App;
}

namespace upmoe::cli {

// Exit codes, documented in --help.
inline constexpr int kOk = 0, kFailed = 1, kUsage = 2, kInterrupted = 130, kReaderGone = 141;

// A verb: adds its options to the parser and gives what is to be done once they are parsed (an exit code).
using Action = std::function<int()>;
struct Command {
  const char* name;
  const char* summary;
  const char* examples;
  Action (*attach)(CLI::App& app);
  std::vector<OptionInfo> (*options)();  // for shell completion
};

// Every verb, one line each.
const std::vector<Command>& commands();

Action convert_command(CLI::App& app);
Action tokenize_command(CLI::App& app);
Action inspect_command(CLI::App& app);
Action methods_command(CLI::App& app);
Action targets_command(CLI::App& app);
Action router_inits_command(CLI::App& app);
Action completion_command(CLI::App& app);

std::vector<OptionInfo> convert_options();
std::vector<OptionInfo> tokenize_options();
std::vector<OptionInfo> json_option();  // of the verbs that print
std::vector<OptionInfo> no_options();

}  // namespace upmoe::cli
