// upmoe-engine: the verbs that run models. `upmoe VERB` becomes this program.
#include "upmoe/cli/engine_commands.h"
#include "upmoe/cli/engine_verbs.h"
#include "upmoe/cli/program.h"

namespace upmoe::cli {
namespace {

// The table of engine_verbs.h with what each verb does.
std::vector<Command> verbs() {
  std::vector<Command> all = engine_commands();
  for (Command& command : all) {
    const std::string_view name = command.name;
    if (name == "calibrate") command.attach = calibrate_command;
    if (name == "eval") command.attach = eval_command;
    if (name == "verify") command.attach = verify_command;
    if (name == "generate") command.attach = generate_command;
    if (name == "routers") command.attach = routers_command;
  }
  return all;
}

}  // namespace
}  // namespace upmoe::cli

int main(int argc, char** argv) { return upmoe::cli::run_program(upmoe::cli::verbs(), argc, argv); }
