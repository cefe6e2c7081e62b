#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

#include "upmoe/base/text.h"
#include "upmoe/cli/eval_options.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/output.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli_engine/choice_source.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/cli_engine/eval_report.h"
#include "upmoe/cli_engine/model_options.h"
#include "upmoe/cli_engine/texts.h"
#include "upmoe/cli_engine/watched.h"
#include "upmoe/ops/product.h"

namespace upmoe::cli {
namespace {

struct Arguments {
  std::string folder;
  std::vector<std::string> data, choices;
  Settings settings;
};

// All that is to be measured.
struct Asked {
  const Arguments& arguments;
  std::vector<TokenFile> texts;
  std::vector<std::vector<eval::Question>> questions;
  std::int64_t choice_context;
  bool pairs;  // of experts, are counted
};

void require_finite_loss(const EvalReport& report, const std::string& data, const eval::NllSum& nll) {
  require(std::isfinite(nll.nll()), "{}: the loss on {} is not finite; are the weights whole?",
          printable(report.folder), printable(data));
  require(std::isfinite(nll.perplexity()),
          "{}: the mean loss on {} is {:.6g} nats, and the perplexity of that is not finite; are the weights "
          "whole?",
          printable(report.folder), printable(data), nll.nll());
}

// Stops between the layers of a model.
model::Watch until(const std::atomic<bool>& interrupted, const model::Watch& watch = {}) {
  return [&interrupted, watch](const model::FfnSeen& seen) {
    if (interrupted) throw Interrupted();
    if (watch) watch(seen);
  };
}

void measure_text(EvalReport& report, const model::Model& model, const Asked& asked, std::size_t number,
                  const std::atomic<bool>& interrupted) {
  ProgressBar bar("evaluating", ProgressBar::Unit::tokens);
  eval::ExpertUse use(model.config, asked.pairs), of_whole_batches = use;
  TextResult text{.name = names_of(asked.arguments.data)[number]};
  text.perplexity =
      eval::measure_perplexity(model, asked.texts[number], report.windows,
                               until(interrupted, [&](const model::FfnSeen& seen) { use.add(seen); }),
                               [&](std::int64_t done, std::int64_t total) {
                                 of_whole_batches = use;
                                 watched(bar)(done, total);
                               });
  text.experts = of_whole_batches.layers();
  require_finite_loss(report, asked.arguments.data[number], text.perplexity.nll);
  report.partial = text.perplexity.partial;
  report.all.nll.add(text.perplexity.nll);
  report.all.tokens_seen += text.perplexity.tokens_seen;
  report.all.seconds += text.perplexity.seconds;
  report.texts.push_back(std::move(text));
}

void measure_choices(EvalReport& report, const model::Model& model, const Asked& asked, std::size_t number,
                     const std::atomic<bool>& interrupted) {
  ProgressBar bar("answering", ProgressBar::Unit::tokens);
  const std::vector<std::string>& files = asked.arguments.choices;
  const std::vector<eval::Question>& questions = asked.questions[number];
  const eval::ChoiceOptions options{.name = files[number], .context = asked.choice_context};
  eval::Choices found = eval::measure_choices(model, questions, options, until(interrupted), watched(bar));
  report.choices.push_back({names_of(files)[number], questions, std::move(found)});
}

// Until all is measured, or Ctrl-C: the report then has what is done. Throws Interrupted when that is
// nothing.
void measure(EvalReport& report, const model::Model& model, const Asked& asked) {
  const std::atomic<bool>& interrupted = catch_interrupts();
  try {
    for (std::size_t i = 0; i < asked.texts.size() && !report.partial; ++i)
      measure_text(report, model, asked, i, interrupted);
    for (std::size_t i = 0; i < asked.questions.size() && !report.partial; ++i)
      measure_choices(report, model, asked, i, interrupted);
  } catch (const Interrupted&) {
    if (report.texts.empty() && report.choices.empty()) throw;
    report.partial = true;
  }
}

EvalReport empty_report(const model::Model& model, const EvalOptions& options) {
  EvalReport report{.compute = dtype_text(model.compute),
                    .dtype = dtype_text(model.embedding_VH.scalar_type()),
                    .device = model.device.str()};
  if (model.config.moe) {
    const model::MoeConfig& moe = *model.config.moe;
    report.router = {.name = moe.router,
                     .options = moe.router_options,
                     .is_other = !options.router.name.empty(),
                     .causal = model::router_traits(moe).evaluation.causal};
  }
  if (model.device.is_cpu()) report.products = ops::kernels_of_products(model.compute);
  report.windows = {.context = context_of(model, options.context, 2048, options.text),
                    .stride = options.stride,
                    .max_tokens = options.max_tokens};
  if (options.stride == 0) report.windows.stride = report.windows.context;
  return report;
}

int run(Arguments arguments) {
  if (arguments.folder.empty()) throw UsageError("name the checkpoint's folder: upmoe eval DIR --data FILE");
  if (arguments.data.empty() && arguments.choices.empty())
    throw UsageError("name a text or a token file: --data FILE, or questions: --choices FILE");
  const auto options = parse<EvalOptions>(values_of(arguments.settings), "'upmoe eval'");
  const std::string named = std::exchange(arguments.folder, find_source(arguments.folder).folder.string());
  const model::Model model = load_model(arguments.folder, options.model, options.router);
  EvalReport report = empty_report(model, options);
  report.folder = named;
  Asked asked{
      .arguments = arguments,
      .texts = open_texts(arguments.data, arguments.folder, model, {options.text.field, options.max_tokens}),
      .questions = {},
      .choice_context =
          options.context == 0 ? model.config.llama.max_position_embeddings : report.windows.context,
      .pairs = options.json};
  for (const std::string& file : arguments.choices)
    asked.questions.push_back(read_questions(file, arguments.folder));
  measure(report, model, asked);
  model::require_intact(model);
  const Uninterrupted until_it_is_printed;
  options.json ? print_json(report) : print(report);
  flush_output();
  if (report.partial) fmt::print(stderr, "upmoe: interrupted; the results are partial\n");
  return report.partial ? kInterrupted : kOk;
}

}  // namespace

Action eval_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->folder, "folder or hub id of a dense Llama or Mistral, or of any target");
  add_files(app, "--data", arguments->data, kEvalData);
  add_files(app, "--choices", arguments->choices, kEvalChoices);
  for (const OptionInfo& option : describe<EvalOptions>()) arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
