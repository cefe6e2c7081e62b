#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace upmoe::cli {

// Where this program lies; empty without /proc.
std::filesystem::path own_program();

// A program by its name, looked for in PATH as a shell does, but never in the current folder: entries of PATH
// that are empty or relative are passed over. Empty where there is none.
std::string find_program(const std::string& name);

// Our environment for a Python that runs nothing out of the current folder: without the empty and relative
// entries of PATH, PYTHONPATH and LD_LIBRARY_PATH, and without what else would have Python look there. A
// folder that PYTHONPATH names from the root on is the user's word, whichever it is.
std::vector<std::string> safe_environment();

// Ours, for the engine that this process becomes: its libraries are not looked for in the current folder, and
// its threads do not wait by spinning, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT say how.
void set_engine_environment();

// A closed standard input, output or error becomes one that can neither be read nor written, so that no file
// which is opened later gets its number. Before anything else is opened.
void fill_closed_streams();

}  // namespace upmoe::cli
