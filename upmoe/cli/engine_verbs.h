#pragma once
#include <vector>

#include "upmoe/cli/commands.h"

namespace upmoe::cli {

// The verbs of the program upmoe-engine as `upmoe` lists and completes them; there, they have no action.
const std::vector<Command>& engine_commands();

// If the command line names one of them: becomes upmoe-engine, which lies beside this program. Does not
// return then, but for printing that the engine is not there.
void hand_over_to_engine(int argc, char** argv);

}  // namespace upmoe::cli
