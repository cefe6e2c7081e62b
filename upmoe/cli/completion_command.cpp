// Completion scripts, made from the same lists of verbs and options that the parser is made from.
#include <CLI/CLI.hpp>
#include <memory>

#include "upmoe/base/text.h"
#include "upmoe/cli/commands.h"

namespace upmoe::cli {
namespace {

const std::vector<std::string> kShells = {"bash", "zsh", "fish"};

std::vector<std::string> verb_names() {
  std::vector<std::string> out;
  for (const Command& command : commands()) out.emplace_back(command.name);
  return out;
}

std::string option_words(const Command& command) {
  std::string out = "--help";
  for (const OptionInfo& option : command.options()) out += " --" + option.name;
  return out;
}

// Shell quoting: '...' with ' written as '\''.
std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string bash() {
  std::string values, verbs;
  for (const Command& command : commands()) {
    verbs += fmt::format("    {}) words={} ;;\n", command.name, in_quotes(option_words(command)));
    for (const OptionInfo& option : command.options())
      if (!option.choices.empty())
        values += fmt::format("    --{}) COMPREPLY=($(compgen -W {} -- \"$cur\")); return ;;\n", option.name,
                              in_quotes(join(option.choices, " ")));
      else if (option.type != "flag" && option.type != "file")
        values += fmt::format("    --{}) return ;;\n", option.name);
  }
  return "_upmoe() {\n  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" "
         "words=''\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    COMPREPLY=($(compgen -W " +
         in_quotes(join(verb_names(), " ") + " --help --version") +
         " -- \"$cur\")); return\n  fi\n  case \"$prev\" in\n" + values +
         "    completion) COMPREPLY=($(compgen -W " + in_quotes(join(kShells, " ")) +
         " -- \"$cur\")); return ;;\n  esac\n  case \"${COMP_WORDS[1]}\" in\n" + verbs +
         "  esac\n  case \"$cur\" in\n    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n    *) "
         "COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n  esac\n}\n"
         "complete -o filenames -F _upmoe upmoe\n";
}

std::string zsh_option(const OptionInfo& option) {
  std::string help;
  for (const char c : option.help)
    help += c == '[' || c == ']' || c == ':' ? std::string("\\") + c : std::string(1, c);
  std::string spec = "--" + option.name + "[" + help + "]";
  if (option.type == "file")
    spec += ":file:_files";
  else if (!option.choices.empty())
    spec += ":value:(" + join(option.choices, " ") + ")";
  else if (option.type != "flag")
    spec += ":" + option.type + ":";
  return in_quotes(spec);
}

std::string zsh() {
  std::string verbs, cases;
  for (const Command& command : commands()) {
    verbs += " " + in_quotes(std::string(command.name) + ":" + command.summary);
    cases += fmt::format("    {}) _arguments '--help[show help]'", command.name);
    for (const OptionInfo& option : command.options()) cases += " " + zsh_option(option);
    cases += std::string(command.name) == "completion" ? " '*:shell:(" + join(kShells, " ") + ")' ;;\n"
                                                       : " '*:folder:_files -/' ;;\n";
  }
  return "#compdef upmoe\n_upmoe() {\n  local -a verbs\n  verbs=(" + verbs +
         " )\n  if (( CURRENT == 2 )); then _describe 'command' verbs; return; fi\n"
         "  local verb=$words[2]\n  shift words; (( CURRENT-- ))\n  case $verb in\n" +
         cases +
         "  esac\n}\nif [ \"$funcstack[1]\" = _upmoe ]; then _upmoe \"$@\"; else compdef _upmoe upmoe; fi\n";
}

std::string fish() {
  std::string out = "complete -c upmoe -n __fish_use_subcommand -f\n";
  for (const Command& command : commands()) {
    out += fmt::format("complete -c upmoe -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       in_quotes(command.summary));
    for (const OptionInfo& option : command.options()) {
      out += fmt::format("complete -c upmoe -n '__fish_seen_subcommand_from {}' -l {} -d {}", command.name,
                         option.name, in_quotes(option.help));
      if (!option.choices.empty())
        out += " -x -a " + in_quotes(join(option.choices, " "));
      else if (option.type == "file")
        out += " -r";
      else if (option.type != "flag")
        out += " -x";
      out += "\n";
    }
  }
  return out + "complete -c upmoe -n '__fish_seen_subcommand_from completion' -f -a " +
         in_quotes(join(kShells, " ")) + "\n";
}

}  // namespace

std::vector<OptionInfo> no_options() { return {}; }

Action completion_command(CLI::App& app) {
  const auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish");
  return [shell] {
    if (*shell == "bash")
      fmt::print("{}", bash());
    else if (*shell == "zsh")
      fmt::print("{}", zsh());
    else if (*shell == "fish")
      fmt::print("{}", fish());
    else
      throw UsageError(fmt::format("there is no completion for '{}'; there is: {}{}", printable(*shell),
                                   join(kShells), guess(*shell, kShells)));
    return kOk;
  };
}

}  // namespace upmoe::cli
