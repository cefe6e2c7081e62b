// upmoe-engine: the verbs that run models. `upmoe VERB` becomes this program.
#include <map>

#include "upmoe/cli/engine_verbs.h"
#include "upmoe/cli/program.h"
#include "upmoe/cli/surroundings.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::cli {
namespace {

// The table of engine_verbs.h with what each verb does.
std::vector<Command> verbs() {
  static const std::map<std::string_view, Action (*)(CLI::App&)> actions = {
      {"calibrate", calibrate_command}, {"eval", eval_command},     {"generate", generate_command},
      {"routers", routers_command},     {"verify", verify_command},
  };
  std::vector<Command> all = engine_commands();
  for (Command& command : all) command.attach = actions.at(command.name);
  return all;
}

}  // namespace
}  // namespace upmoe::cli

int main(int argc, char** argv) {
  upmoe::cli::fill_closed_streams();
  upmoe::ops::keep_freed_memory();
  return upmoe::cli::run_program(upmoe::cli::verbs(), argc, argv);
}
