// upmoe-engine: the verbs that run models. `upmoe VERB` becomes this program.
#include <c10/util/Exception.h>

#include <cerrno>
#include <map>
#include <system_error>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/engine_verbs.h"
#include "upmoe/cli/program.h"
#include "upmoe/cli/surroundings.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::cli {
namespace {

// torch's errors have the trace of a debugger, and its want of memory many words.
int in_a_sentence(const Action& action) try { return action(); } catch (const c10::Error& error) {
  const std::string what = error.what_without_backtrace();
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
      what.find("allocate memory") != std::string::npos ||
      what.find("not enough memory") != std::string::npos)
    throw std::bad_alloc();
  fail("torch: {}", printable(what.substr(0, what.find('\n')), 400));
} catch (const std::system_error& error) {
  if (error.code().value() == EAGAIN) fail("out of memory, or of threads: a thread cannot be started");
  throw;
}

template <Action (*Verb)(CLI::App&)>
Action attach(CLI::App& app) {
  return [action = Verb(app)] { return in_a_sentence(action); };
}

// The table of engine_verbs.h with what each verb does.
std::vector<Command> verbs() {
  static const std::map<std::string_view, Action (*)(CLI::App&)> actions = {
      {"calibrate", attach<calibrate_command>}, {"eval", attach<eval_command>},
      {"generate", attach<generate_command>},   {"losses", attach<losses_command>},
      {"routers", attach<routers_command>},     {"verify", attach<verify_command>},
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
