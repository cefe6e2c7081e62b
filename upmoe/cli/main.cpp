// upmoe: the program, as a table of verbs. The verbs that run models are in a second program, upmoe-engine,
// so that this one never loads torch.
#include "upmoe/cli/commands.h"
#include "upmoe/cli/engine_verbs.h"
#include "upmoe/cli/program.h"
#include "upmoe/cli/surroundings.h"

namespace upmoe::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> all = [] {
    std::vector<Command> out = {
        {"convert", "convert a dense Llama or Mistral to a Mixture of Experts",
         "  upmoe convert ./SmolLM2-135M ./smol-8x --method drop --ratio 0.5 --experts 8 --top-k 2\n"
         "  upmoe convert ./SmolLM2-135M ./smol-8x --dry-run           # print the plan, write nothing\n"
         "  upmoe convert HuggingFaceTB/SmolLM2-135M ./smol-8x         # from the Hugging Face hub\n"
         "  upmoe convert ./SmolLM2-135M ./again --recipe ./smol-8x/upmoe-recipe.toml",
         convert_command, convert_options},
        {"inspect", "describe a checkpoint: parameters, experts, identical experts, origin",
         "  upmoe inspect ./smol-8x\n  upmoe inspect ./smol-8x --json | python3 -m json.tool",
         inspect_command, json_option},
        {"tokenize", "convert texts to a file of token ids",
         "  upmoe tokenize ./SmolLM2-135M corpus/ notes.txt -o corpus       # corpus.bin and corpus.idx\n"
         "  upmoe tokenize ./SmolLM2-135M wiki.jsonl --field body -o wiki --max-tokens 1000000000",
         tokenize_command, tokenize_options},
        {"methods", "list the upcycling methods with formula, source and options",
         "  upmoe methods\n  upmoe methods drop\n  upmoe methods --json", methods_command, json_option},
        {"targets", "list the target architectures", "  upmoe targets", targets_command, json_option},
        {"router-inits", "list the router initialisations", "  upmoe router-inits\n  upmoe router-inits auto",
         router_inits_command, json_option},
        {"completion", "print a completion script for bash, zsh or fish",
         "  upmoe completion bash > ~/.local/share/bash-completion/completions/upmoe\n"
         "  upmoe completion zsh  > \"${fpath[1]}/_upmoe\"\n"
         "  upmoe completion fish > ~/.config/fish/completions/upmoe.fish",
         completion_command, no_options},
    };
    out.insert(out.end() - 1, engine_commands().begin(), engine_commands().end());
    return out;
  }();
  return all;
}

}  // namespace upmoe::cli

int main(int argc, char** argv) {
  upmoe::cli::fill_closed_streams();
  upmoe::cli::read_help_verb(argc, argv);
  upmoe::cli::hand_over_to_engine(argc, argv);
  return upmoe::cli::run_program(upmoe::cli::commands(), argc, argv);
}
