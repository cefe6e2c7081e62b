#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/io/file_descriptor.h"

namespace upmoe::cli {

// Runs a program in Python: UPMOE_PYTHON, or .venv of the source tree that the program was built in, or
// python3. A name alone is looked for in PATH, and never in the current folder. The program sees the
// arguments as sys.argv[1:], and gives what it prints on standard output. What it says on standard error goes
// to ours. Throws Error when there is no Python.
//
// Neither this Python nor those below run anything out of the current folder, and they end when we do.
std::string run_python(const char* program, const std::vector<std::string>& arguments);

// Runs our Python package, `python -m upmoe ARGUMENTS`. What it prints; throws what it fails with:
// Error, UsageError or Interrupted with its sentence. Its notes go to standard error.
std::string run_upmoe_python(const std::vector<std::string>& arguments, std::string_view input = "");

// `python -m upmoe ARGUMENTS` at work beside us: it reads what we write, and writes to our standard output.
// Ctrl-C does not reach it; it ends when there is no more to read.
class PythonFilter {
 public:
  explicit PythonFilter(const std::vector<std::string>& arguments);
  ~PythonFilter();  // waits for its end, whatever it says
  PythonFilter(const PythonFilter&) = delete;
  PythonFilter& operator=(const PythonFilter&) = delete;

  void write(std::string_view text);
  void finish();  // no more to read: waits for its end, and throws what it fails with

 private:
  FileDescriptor said_, input_{-1};
  int child_ = 0;
};

// Goes on as `python -m upmoe ARGUMENTS`: does not come back. Throws Error when there is no Python.
[[noreturn]] void become_upmoe_python(const std::vector<std::string>& arguments);

}  // namespace upmoe::cli
