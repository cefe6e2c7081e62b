#include <CLI/CLI.hpp>
#include <memory>

#include "upmoe/cli/engine_commands.h"
#include "upmoe/cli/eval_options.h"
#include "upmoe/model/load.h"

namespace upmoe::cli {

Action eval_command(CLI::App& app) {
  const auto folder = std::make_shared<std::string>();
  app.add_option("DIR", *folder, "checkpoint folder");
  return [folder] {
    const model::Model model = model::load(*folder);
    fmt::print("{} layers\n", model.layers.size());
    return kOk;
  };
}

}  // namespace upmoe::cli
