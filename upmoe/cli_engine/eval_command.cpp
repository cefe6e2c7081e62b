#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <utility>

#include "upmoe/base/text.h"
#include "upmoe/cli/eval_options.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/open_tokens.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli_engine/choice_source.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/cli_engine/eval_report.h"
#include "upmoe/cli_engine/model_options.h"
#include "upmoe/cli_engine/watched.h"
#include "upmoe/ops/product.h"

namespace upmoe::cli {
namespace {

struct Arguments {
  std::string folder;
  std::vector<std::string> data, choices;
  Settings settings;
  bool json = false;
};

std::string stem(const std::string& file) { return std::filesystem::path(file).stem().string(); }

TextResult measure_text(const model::Model& model, const std::string& data, const Arguments& arguments,
                        const eval::WindowOptions& windows) {
  const TokenFile file = open_tokens(data, arguments.folder, windows.max_tokens);
  file.require_ids_below(model.config.llama.vocab_size, windows.max_tokens);
  ProgressBar bar("evaluating", ProgressBar::Unit::tokens);
  eval::ExpertUse use(model.config, /*pairs=*/arguments.json);
  TextResult out{.name = stem(data)};
  out.perplexity = eval::measure_perplexity(
      model, file, windows, [&](const model::FfnSeen& seen) { use.add(seen); }, watched(bar));
  out.experts = use.layers();
  require(std::isfinite(out.perplexity.nll.nll()), "{}: the loss on {} is not finite; are the weights whole?",
          printable(arguments.folder), printable(data));
  require(std::isfinite(out.perplexity.nll.perplexity()),
          "{}: the mean loss on {} is {:.6g} nats, and the perplexity of that is not finite; are the weights "
          "whole?",
          printable(arguments.folder), printable(data), out.perplexity.nll.nll());
  return out;
}

ChoicesResult measure_file(const model::Model& model, const std::string& file, const Arguments& arguments,
                           std::int64_t context) {
  ChoicesResult out{.name = stem(file), .asked = read_questions(file, arguments.folder)};
  ProgressBar bar("answering", ProgressBar::Unit::tokens);
  out.found = eval::measure_choices(model, out.asked, {.name = file, .context = context}, watched(bar));
  return out;
}

int run(Arguments arguments) {
  if (arguments.folder.empty()) throw UsageError("name the checkpoint's folder: upmoe eval DIR --data FILE");
  if (arguments.data.empty() && arguments.choices.empty())
    throw UsageError("name a text or a token file: --data FILE, or questions: --choices FILE");
  const auto options = parse<EvalOptions>(arguments.settings.values({}, {}), "'upmoe eval'");
  arguments.json = options.json;
  const std::string named = std::exchange(arguments.folder, find_source(arguments.folder).folder.string());
  const model::Model model = load_model(arguments.folder, options.model);
  const std::int64_t longest = model.config.llama.max_position_embeddings;

  EvalReport report{.folder = named,
                    .compute = dtype_text(model.compute),
                    .dtype = dtype_text(model.embedding_VH.scalar_type()),
                    .device = model.device.str()};
  if (model.device.is_cpu()) report.products = ops::kernels_of_products(model.compute);
  report.windows = {.context = options.context, .stride = options.stride, .max_tokens = options.max_tokens};
  if (options.context == 0) report.windows.context = std::min<std::int64_t>(2048, longest);
  if (options.stride == 0) report.windows.stride = report.windows.context;
  for (const std::string& data : arguments.data) {
    const TextResult& text = report.texts.emplace_back(measure_text(model, data, arguments, report.windows));
    report.all.nll.add(text.perplexity.nll);
    report.all.tokens_seen += text.perplexity.tokens_seen;
    report.all.seconds += text.perplexity.seconds;
  }
  for (const std::string& file : arguments.choices)
    report.choices.push_back(
        measure_file(model, file, arguments, options.context == 0 ? longest : options.context));
  model::require_intact(model);
  options.json ? print_json(report) : print(report);
  return kOk;
}

}  // namespace

Action eval_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->folder, "folder or hub id of a dense Llama or Mistral, or of any target");
  app.add_option("--data", arguments->data,
                 "text, JSONL or token file, or a folder of texts; may be given several times")
      ->type_name("FILE");
  app.add_option("--choices", arguments->choices,
                 "JSONL of multiple-choice questions; may be given several times")
      ->type_name("FILE");
  for (const OptionInfo& option : describe<EvalOptions>()) arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
