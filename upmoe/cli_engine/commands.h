#pragma once
#include "upmoe/cli/commands.h"

namespace upmoe::cli {

// The verbs of the engine, each in the file of its name. They link torch.
Action calibrate_command(CLI::App& app);
Action eval_command(CLI::App& app);
Action verify_command(CLI::App& app);
Action generate_command(CLI::App& app);
Action routers_command(CLI::App& app);
Action losses_command(CLI::App& app);

}  // namespace upmoe::cli
