#include <sys/resource.h>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "upmoe/base/text.h"
#include "upmoe/cli/engine_commands.h"
#include "upmoe/cli/eval_options.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/model_options.h"
#include "upmoe/cli/progress_bar.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli/token_source.h"
#include "upmoe/eval/expert_use.h"
#include "upmoe/eval/perplexity.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;
using eval::ExpertUse;

struct TextResult {
  std::string name;
  eval::Perplexity perplexity;
  std::vector<ExpertUse::Layer> experts;
};

struct Outcome {
  std::string folder, compute, dtype, device;
  eval::WindowOptions windows;
  std::vector<TextResult> texts;
  eval::Perplexity all;
};

std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

double mean(const std::vector<ExpertUse::Layer>& layers, double ExpertUse::Layer::*of) {
  double sum = 0;
  for (const ExpertUse::Layer& layer : layers) sum += layer.*of;
  return sum / static_cast<double>(layers.size());
}

std::vector<std::vector<ExpertUse::Layer>> experts_of(const Outcome& outcome) {
  std::vector<std::vector<ExpertUse::Layer>> out;
  for (const TextResult& text : outcome.texts) out.push_back(text.experts);
  return out;
}

Json to_json(const eval::Perplexity& found) {
  const auto error = found.nll.standard_error();
  const double per_second = static_cast<double>(found.tokens_seen) / found.seconds;
  return {{"nll", found.nll.nll()},
          {"nll_stderr", error ? Json(*error) : Json(nullptr)},
          {"ppl", found.nll.perplexity()},
          {"ppl_stderr", error ? Json(*error * found.nll.perplexity()) : Json(nullptr)},
          {"tokens", found.nll.tokens()},
          {"tokens_seen", found.tokens_seen},
          {"seconds", found.seconds},
          {"tokens_per_second", per_second}};
}

Json to_json(const std::vector<ExpertUse::Layer>& layers) {
  Json out = Json::array();
  for (const ExpertUse::Layer& layer : layers)
    out.push_back({{"load", layer.load_E},
                   {"together", layer.together_EE},
                   {"router_entropy", layer.router_entropy},
                   {"mean_entropy", layer.mean_entropy},
                   {"load_entropy", layer.load_entropy},
                   {"max_violation", layer.max_violation},
                   {"unused", layer.unused},
                   {"top_weight", layer.top_weight},
                   {"logit_std", layer.logit_std}});
  return out;
}

Json to_json(const Outcome& outcome) {
  Json out = {{"model", printable(outcome.folder)},
              {"device", outcome.device},
              {"dtype", outcome.dtype},
              {"compute", outcome.compute},
              {"threads", at::get_num_threads()},
              {"context", outcome.windows.context},
              {"stride", outcome.windows.stride}};
  out.update(to_json(outcome.all));
  out["peak_memory"] = peak_memory();
  out["texts"] = Json::array();
  for (const TextResult& text : outcome.texts) {
    Json one = {{"name", printable(text.name)}};
    one.update(to_json(text.perplexity));
    if (!text.experts.empty()) one["layers"] = to_json(text.experts);
    out["texts"].push_back(std::move(one));
  }
  if (outcome.texts.size() > 1 && !outcome.texts.front().experts.empty())
    out["specialisation"] = eval::specialisation(experts_of(outcome));
  return out;
}

void print_line(const std::string& name, const eval::Perplexity& found) {
  const auto error = found.nll.standard_error();
  const double ppl = found.nll.perplexity();
  fmt::print("{:<20} {:>9}  {:>17}  {:>19}  {:>9.1f}\n", printable(name, 20), found.nll.tokens(),
             error ? fmt::format("{:.4f} ± {:.4f}", found.nll.nll(), *error)
                   : fmt::format("{:.4f}", found.nll.nll()),
             error ? fmt::format("{:.4g} ± {:.2g}", ppl, *error * ppl) : fmt::format("{:.4g}", ppl),
             static_cast<double>(found.tokens_seen) / found.seconds);
}

void print_experts(const Outcome& outcome) {
  using Layer = ExpertUse::Layer;
  fmt::print("\n{:<20} {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}\n", "experts", "load", "router", "busiest",
             "unused", "top", "logit");
  fmt::print("{:<20} {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}\n", "(mean of layers)", "entropy", "entropy",
             "/ mean", "", "weight", "std");
  for (const TextResult& text : outcome.texts) {
    std::int64_t unused = 0;
    for (const Layer& layer : text.experts) unused += layer.unused;
    fmt::print("{:<20} {:>9.3f}  {:>9.3f}  {:>9.2f}  {:>9}  {:>9.3f}  {:>9.3f}\n", printable(text.name, 20),
               mean(text.experts, &Layer::load_entropy), mean(text.experts, &Layer::router_entropy),
               1 + mean(text.experts, &Layer::max_violation),
               fmt::format("{}/{}", unused, text.experts.size() * text.experts.front().load_E.size()),
               mean(text.experts, &Layer::top_weight), mean(text.experts, &Layer::logit_std));
  }
  const std::vector<double> special = eval::specialisation(experts_of(outcome));
  if (special.empty()) return;
  const auto most = std::ranges::max_element(special);
  fmt::print("specialisation by text: {:.4f} of 1 on average, {:.4f} in layer {}\n",
             std::accumulate(special.begin(), special.end(), 0.0) / static_cast<double>(special.size()),
             *most, most - special.begin());
}

void print(const Outcome& outcome) {
  fmt::print("{}\n", printable(outcome.folder));
  fmt::print("weights {} on {}, arithmetic {}, {} threads; windows of {} tokens{}\n\n", outcome.dtype,
             outcome.device, outcome.compute, at::get_num_threads(), outcome.windows.context,
             outcome.windows.stride == outcome.windows.context
                 ? ""
                 : fmt::format(", every {}", outcome.windows.stride));
  fmt::print("{:<20} {:>9}  {:>17}  {:>19}  {:>9}\n", "text", "tokens", "nll", "perplexity", "tokens/s");
  for (const TextResult& text : outcome.texts) print_line(text.name, text.perplexity);
  if (outcome.texts.size() > 1) print_line("all", outcome.all);
  if (!outcome.texts.front().experts.empty()) print_experts(outcome);
  fmt::print("\nmemory at the peak: {}\n", human_bytes(peak_memory()));
}

struct Arguments {
  std::string folder;
  std::vector<std::string> data;
  Settings settings;
};

int run(const Arguments& arguments) {
  if (arguments.folder.empty()) throw UsageError("name the checkpoint's folder: upmoe eval DIR --data FILE");
  if (arguments.data.empty()) throw UsageError("name a text or a token file: --data FILE");
  const auto options = parse<EvalOptions>(arguments.settings.values({}, {}), "'upmoe eval'");
  const std::atomic<bool>& interrupted = catch_interrupts();
  const model::Model model = load_model(arguments.folder, options.model);

  Outcome outcome{.folder = arguments.folder,
                  .compute = dtype_text(model.compute),
                  .dtype = dtype_text(model.embedding_VH.scalar_type()),
                  .device = model.device.str()};
  outcome.windows = {.context = options.context, .stride = options.stride, .max_tokens = options.max_tokens};
  if (options.context == 0)
    outcome.windows.context = std::min<std::int64_t>(2048, model.config.llama.max_position_embeddings);
  if (options.stride == 0) outcome.windows.stride = outcome.windows.context;
  for (const std::string& data : arguments.data) {
    const TokenSource source(data, arguments.folder);
    const TokenFile file(source.path());
    file.require_ids_below(model.config.llama.vocab_size);
    ProgressBar bar("evaluating", ProgressBar::Unit::tokens);
    ExpertUse use(model.config);
    TextResult text{.name = std::filesystem::path(data).stem().string()};
    text.perplexity = eval::measure_perplexity(
        model, file, outcome.windows, [&](const model::FfnSeen& seen) { use.add(seen); },
        [&](std::int64_t done, std::int64_t total) {
          if (interrupted) throw Interrupted("interrupted");
          bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
        });
    text.experts = use.layers();
    outcome.all.nll.add(text.perplexity.nll);
    outcome.all.tokens_seen += text.perplexity.tokens_seen;
    outcome.all.seconds += text.perplexity.seconds;
    outcome.texts.push_back(std::move(text));
  }
  require(std::isfinite(outcome.all.nll.nll()), "{}: the loss is not a finite number; are the weights whole?",
          printable(arguments.folder));
  if (options.json)
    fmt::print("{}\n", to_json(outcome).dump(2, ' ', /*ensure_ascii=*/true));
  else
    print(outcome);
  return kOk;
}

}  // namespace

Action eval_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->folder, "checkpoint folder: a dense Llama or Mistral, or any target");
  app.add_option("--data", arguments->data,
                 "text, JSONL or token file, or a folder of texts; may be given several times")
      ->type_name("FILE");
  for (const OptionInfo& option : describe<EvalOptions>()) arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
