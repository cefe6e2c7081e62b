// generate: a prompt to ids, ids to more ids, and those to text while they come. Text is Python's
// (python/upmoe/encode.py, chat.py); ids need none.
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>

#include "upmoe/base/counted.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/generate_options.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/output.h"
#include "upmoe/cli/python.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/cli_engine/model_options.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/model/generate.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;
using model::Generated;
using Ids = std::vector<std::int64_t>;

struct Arguments {
  std::string folder, prompt_file;
  Settings settings;
};

// A token's experts would be others once the next token is there: text made so is not what the model was
// trained for.
void require_causal(const model::Model& model, const GenerateOptions& options) {
  const auto& moe = model.config.moe;
  require_asked(
      !moe || !options.allow.values.empty() || model::router_traits(*moe).token_independent,
      "the router '{}' chooses the experts of a token by looking at other tokens, also at later ones, "
      "which are not there yet while text is generated; --allow noncausal runs it all the same",
      moe ? moe->router : "");
}

std::string standard_input() {
  constexpr std::size_t kMost = 64u << 20;  // as of a file
  std::string text;
  for (int byte = 0; text.size() <= kMost && (byte = std::getchar()) != EOF;) text += static_cast<char>(byte);
  require(std::ferror(stdin) == 0, "cannot read standard input: {}", ErrnoText{});
  require(text.size() <= kMost, "standard input: more than the {} bytes that a prompt may have", kMost);
  return text;
}

// Checked here, where it is known what it is called.
std::string utf8(std::string text, std::string_view what) {
  try {
    (void)Json(text).dump();
  } catch (const Json::type_error&) {
    fail("{}: is not UTF-8 text", what);
  }
  return text;
}

std::string prompt_text(const Arguments& arguments, const GenerateOptions& options) {
  const std::string& file = arguments.prompt_file;
  if (file.empty()) return utf8(options.prompt, "--prompt");
  if (file == "-") return utf8(standard_input(), "standard input");
  return utf8(read_small_file(file), printable(file));
}

Ids ids_of_words(const std::string& text) {
  Ids out;
  std::istringstream words(text);
  for (std::string word; words >> word;) option_value::read(out.emplace_back(), "tokens", word);
  return out;
}

Ids ids_of_text(const std::string& folder, const std::string& text, const GenerateOptions& options) {
  std::vector<std::string> encode = {"encode"};
  std::string prompt = text;
  if (options.chat) {
    Json messages = Json::array();
    if (!options.system.empty())
      messages.push_back({{"role", "system"}, {"content", utf8(options.system, "--system")}});
    messages.push_back({{"role", "user"}, {"content", text}});
    prompt = run_upmoe_python({"chat", "--", folder}, messages.dump());
    encode.emplace_back("--no-special-tokens");  // the template has them
  }
  encode.insert(encode.end(), {"--", folder});
  return Json::parse(run_upmoe_python(encode, prompt)).get<Ids>();
}

const char* stop_text(Generated::Stop stop) {
  switch (stop) {
    case Generated::Stop::end_token:
      return "end_token";
    case Generated::Stop::max_tokens:
      return "max_tokens";
    case Generated::Stop::context:
      return "context";
    case Generated::Stop::interrupt:
      return "interrupt";
  }
  return "";
}

struct Speed {  // tokens a second; none where there was nothing to measure
  std::optional<double> prompt, decoding;
};
Speed speed_of(const Ids& prompt, const Generated& found) {
  Speed out;
  const auto rate = [](std::size_t tokens, double seconds) {
    return tokens > 0 && seconds > 0 ? std::optional(static_cast<double>(tokens) / seconds) : std::nullopt;
  };
  if (found.tokens.empty()) return out;
  out.prompt = rate(prompt.size(), found.prompt_seconds);
  out.decoding = rate(found.tokens.size() - 1, found.seconds);  // the first comes with the prompt
  return out;
}
Json to_json(std::optional<double> number) { return number ? Json(*number) : Json(nullptr); }
std::string to_text(std::optional<double> number) { return number ? fmt::format(", {:.1f}/s", *number) : ""; }

std::string joined(const Ids& ids) { return fmt::format("{}", fmt::join(ids, " ")); }

void print_json(const std::string& folder, const Ids& prompt, const Generated& found, bool as_text) {
  const Speed speed = speed_of(prompt, found);
  Json out = {{"ids", found.tokens}};
  if (as_text) out["text"] = run_upmoe_python({"decode", "--", folder}, joined(found.tokens));
  out.update({{"stop", stop_text(found.stop)},
              {"prompt_tokens", prompt.size()},
              {"prompt_tokens_per_second", to_json(speed.prompt)},
              {"tokens_per_second", to_json(speed.decoding)}});
  fmt::print("{}\n", out.dump(2, ' ', /*ensure_ascii=*/true));
}

std::string end_text(const model::Model& model, Generated::Stop stop) {
  if (stop == Generated::Stop::context)
    return fmt::format("; the model's {}-token context is full", model.config.llama.max_position_embeddings);
  return stop == Generated::Stop::interrupt ? "; interrupted" : "";
}

void say_speed(const model::Model& model, const Ids& prompt, const Generated& found) {
  const Speed speed = speed_of(prompt, found);
  fmt::print(stderr, "prompt: {}{}; new: {}{}; arithmetic {}, {}{}\n", counted(std::ssize(prompt), "token"),
             to_text(speed.prompt), counted(std::ssize(found.tokens), "token"), to_text(speed.decoding),
             dtype_text(model.compute), counted(at::get_num_threads(), "thread"),
             end_text(model, found.stop));
}

void check(const Arguments& arguments, const Values& said, const GenerateOptions& options) {
  if (arguments.folder.empty())
    throw UsageError("name the checkpoint's folder: upmoe generate DIR --prompt TEXT");
  const int prompts = static_cast<int>(said.contains("prompt")) + static_cast<int>(said.contains("tokens")) +
                      static_cast<int>(!arguments.prompt_file.empty());
  require_asked(prompts == 1, "give one of --prompt TEXT, --prompt-file FILE and --tokens IDS");
  require_asked(!options.chat || !said.contains("tokens"),
                "--chat needs a text prompt, and --tokens gives token ids");
  require_asked(options.chat || options.system.empty(), "--system needs --chat");
  for (const char* draws : {"top-k", "top-p"})
    require_asked(!said.contains(draws) || !said.contains("temperature") || options.temperature != 0,
                  "--{} chooses what is sampled from, and --temperature 0 does not sample; leave one of them "
                  "out",
                  draws);
  require_asked(options.max_tokens >= 1, "--max-tokens is {}, expected a positive number",
                options.max_tokens);
}

// Who says what to sample from wants to sample.
double temperature_of(const Values& said, const GenerateOptions& options) {
  const bool samples = said.contains("top-k") || said.contains("top-p");
  return samples && !said.contains("temperature") ? 1 : options.temperature;
}

int run(Arguments arguments) {
  const Values said = values_of(arguments.settings);
  const auto options = parse<GenerateOptions>(said, "'upmoe generate'");
  check(arguments, said, options);
  model::GenerateOptions how{.max_tokens = options.max_tokens,
                             .sampling = {.temperature = temperature_of(said, options),
                                          .top_k = options.top_k,
                                          .top_p = options.top_p,
                                          .seed = static_cast<std::uint64_t>(options.seed)}};
  model::check(how.sampling);
  arguments.folder = find_source(arguments.folder).folder.string();
  const bool as_text = !said.contains("tokens"), streams = as_text && !options.json;
  const Ids prompt = as_text ? ids_of_text(arguments.folder, prompt_text(arguments, options), options)
                             : ids_of_words(options.tokens);
  const std::atomic<bool>& interrupted = catch_interrupts();
  how.is_interrupted = [&] { return interrupted.load(); };
  std::unique_ptr<PythonFilter> decoder;  // starts while the model is loaded
  if (streams)
    decoder = std::make_unique<PythonFilter>(
        std::vector<std::string>{"decode", "--stream", "--", arguments.folder});
  const model::Model model = load_model(arguments.folder, options.model, options.router);
  require_causal(model, options);
  how.end = model::end_tokens(Folder(arguments.folder), model.config);

  const char* before = "";
  const Generated found = model::generate(model, prompt, how, [&](std::int64_t token) {
    if (decoder) decoder->write(fmt::format("{}\n", token));
    if (as_text || options.json) return;
    fmt::print("{}{}", std::exchange(before, " "), token);
    flush_output();
  });
  if (decoder) decoder->finish();
  model::require_intact(model);
  const bool was_interrupted = found.stop == Generated::Stop::interrupt;
  const bool has_nothing = was_interrupted && found.tokens.empty();
  if (has_nothing && !options.json) throw Interrupted();
  if (options.json)
    print_json(arguments.folder, prompt, found, as_text);
  else
    fmt::print("\n");
  std::fflush(stdout);
  if (has_nothing) throw Interrupted();
  say_speed(model, prompt, found);
  return was_interrupted ? kInterrupted : kOk;
}

}  // namespace

Action generate_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->folder, "folder or hub id of a dense Llama or Mistral, or of any target");
  app.add_option("--prompt-file", arguments->prompt_file, kPromptFile)->type_name("FILE");
  for (const OptionInfo& option : describe<GenerateOptions>())
    arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
