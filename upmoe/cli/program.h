#pragma once
#include <vector>

#include "upmoe/cli/commands.h"

namespace upmoe::cli {

// Makes "VERB --help" of "help VERB", and "--help" of "help".
void read_help_verb(int argc, char** argv);

// Parses the command line, carries the verb out and prints what went wrong: the one place that catches
// errors. Gives the exit code.
int run_program(const std::vector<Command>& commands, int argc, char** argv);

}  // namespace upmoe::cli
