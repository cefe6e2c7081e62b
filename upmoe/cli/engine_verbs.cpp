#include "upmoe/cli/engine_verbs.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "upmoe/base/text.h"
#include "upmoe/cli/calibrate_options.h"
#include "upmoe/cli/eval_options.h"
#include "upmoe/cli/generate_options.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/surroundings.h"
#include "upmoe/cli/verify_options.h"

namespace upmoe::cli {
namespace fs = std::filesystem;

const std::vector<Command>& engine_commands() {
  static const Action nothing = [] { return kUsage; };
  const auto listed = [](CLI::App& /*app*/) { return nothing; };
  static const std::vector<Command> all = {
      {"calibrate", "measure router inputs and neuron activations on texts, and save the statistics",
       "  upmoe calibrate ./SmolLM2-135M --data prose.txt --data code.txt -o smol.safetensors\n"
       "  upmoe calibrate ./SmolLM2-135M --data prose.txt --importance off --samples 4096 -o "
       "smol.safetensors",
       listed, calibrate_options},
      {"eval", "measure perplexity, multiple-choice accuracy and the use of the experts",
       "  upmoe eval ./smol-8x --data heldout.txt\n"
       "  upmoe eval ./smol-8x --data prose.bin --data code.bin --context 1024 --json\n"
       "  upmoe eval ./smol-8x --choices hellaswag.jsonl",
       listed, eval_options},
      {"verify", "compare with the dense model, and check what upmoe.json promises",
       "  upmoe verify ./smol-8x --against ./SmolLM2-135M\n"
       "  upmoe verify ./smol-8x --against ./SmolLM2-135M --data heldout.txt --json",
       listed, verify_options},
      {"generate", "generate text from a prompt",
       "  upmoe generate ./smol-8x --prompt 'The capital of France is' --max-tokens 20\n"
       "  upmoe generate ./smol-8x --chat --prompt 'Who are you?' --temperature 0.7 --top-p 0.9 --seed 1\n"
       "  upmoe generate ./smol-8x --tokens '1 504 4521' --json             # ids in and out, without Python",
       listed, generate_options},
      {"routers", "list the routing strategies that the engine can run",
       "  upmoe routers\n  upmoe routers bias_topk --json\n", listed, json_option},
      {"losses", "list the balancing losses that a router can be trained with",
       "  upmoe losses\n  upmoe losses switch --json\n", listed, json_option},
  };
  return all;
}

void hand_over_to_engine(int argc, char** argv) {
  const auto& all = engine_commands();
  if (argc < 2 || std::ranges::find(all, std::string_view(argv[1]), &Command::name) == all.end()) return;
  std::error_code ignored;
  const fs::path program = own_program(), engine = program.parent_path() / "upmoe-engine";
  set_engine_environment();
  hold_interrupts();  // while torch is loaded
  if (!program.empty()) ::execv(engine.c_str(), argv);
  fmt::print(stderr, "upmoe: {}\n",
             program.empty() ? fmt::format("'{}' needs the engine, which lies beside this program, and where "
                                           "that is cannot be seen: /proc is missing",
                                           argv[1])
             : fs::exists(engine, ignored)
                 ? fmt::format("cannot run {}: {}", printable(engine.string()), ErrnoText{})
                 : fmt::format("'{}' needs the engine, upmoe-engine, which was not found beside {}; copy it "
                               "there with its libraries, or build both with `make build`",
                               argv[1], printable(program.string())));
  std::exit(kFailed);
}

}  // namespace upmoe::cli
