#include "upmoe/cli_engine/eval_report.h"

#include <sys/resource.h>

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "upmoe/base/counted.h"
#include "upmoe/base/text.h"
#include "upmoe/cli_engine/finite.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;
using eval::ExpertUse;

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

// "-" where it was measured of no layer.
std::string mean_text(const std::vector<ExpertUse::Layer>& layers,
                      std::optional<double> ExpertUse::Layer::*of) {
  double sum = 0, count = 0;
  for (const ExpertUse::Layer& layer : layers)
    if (layer.*of) sum += *(layer.*of), ++count;
  return count > 0 ? fmt::format("{:.3f}", sum / count) : "-";
}

Json or_null(std::optional<double> number) { return number ? Json(*number) : Json(nullptr); }

std::vector<std::vector<ExpertUse::Layer>> experts_of(const EvalReport& report) {
  std::vector<std::vector<ExpertUse::Layer>> out;
  for (const TextResult& text : report.texts) out.push_back(text.experts);
  return out;
}

double rate(const eval::Perplexity& found) { return static_cast<double>(found.tokens_seen) / found.seconds; }

Json to_json(const eval::Perplexity& found) {
  const auto error = found.nll.standard_error();
  return {{"nll", found.nll.nll()},
          {"nll_stderr", or_null(error)},
          {"ppl", found.nll.perplexity()},
          {"ppl_stderr", error ? Json(*error * found.nll.perplexity()) : Json(nullptr)},
          {"tokens", found.nll.tokens()},
          {"tokens_seen", found.tokens_seen},
          {"seconds", found.seconds},
          {"tokens_per_second", found.seconds > 0 ? Json(rate(found)) : Json(nullptr)}};
}

Json to_json(const std::vector<ExpertUse::Layer>& layers) {
  Json out = Json::array();
  for (const ExpertUse::Layer& layer : layers)
    out.push_back({{"load", layer.load_E},
                   {"together", layer.together_EE.empty() ? Json(nullptr) : Json(layer.together_EE)},
                   {"router_entropy", or_null(layer.router_entropy)},
                   {"mean_entropy", or_null(layer.mean_entropy)},
                   {"load_entropy", layer.load_entropy},
                   {"max_violation", layer.max_violation},
                   {"unused", layer.unused},
                   {"top_weight", layer.top_weight},
                   {"logit_std", or_null(layer.logit_std)}});
  return out;
}

Json to_json(const RouterResult& router) {
  if (router.name.empty()) return nullptr;
  return {{"name", router.name}, {"options", router.options}, {"causal", router.causal}};
}

Json to_json(const eval::Choices& found, const std::vector<eval::Question>& asked) {
  Json out = {{"questions", found.questions.size()},
              {"acc", found.acc.mean},
              {"acc_stderr", or_null(found.acc.standard_error)},
              {"acc_norm", found.acc_norm.mean},
              {"acc_norm_stderr", or_null(found.acc_norm.standard_error)},
              {"truncated", found.truncated},
              {"tokens_seen", found.tokens_seen},
              {"seconds", found.seconds}};
  out["details"] = Json::array();
  for (std::size_t q = 0; q < asked.size(); ++q) {
    const eval::Answered& answered = found.questions[q];
    out["details"].push_back({{"id", printable(asked[q].id)},
                              {"answer", asked[q].answer},
                              {"log_likelihoods", answered.log_likelihood},
                              {"characters", asked[q].characters},
                              {"chosen", answered.chosen},
                              {"chosen_norm", answered.chosen_norm},
                              {"truncated", answered.truncated}});
  }
  return out;
}

Json finite_json(const EvalReport& report) {
  Json out = {{"model", printable(report.folder)},
              {"device", report.device},
              {"dtype", report.dtype},
              {"compute", report.compute},
              {"products", report.products.empty() ? Json(nullptr) : Json(report.products)},
              {"threads", at::get_num_threads()},
              {"router", to_json(report.router)},
              {"partial", report.partial}};
  if (!report.texts.empty()) {
    out["context"] = report.windows.context;
    out["stride"] = report.windows.stride;
    out.update(to_json(report.all));
  }
  out["peak_memory"] = peak_memory();
  out["texts"] = Json::array();
  for (const TextResult& text : report.texts) {
    Json one = {{"name", printable(text.name)}};
    one.update(to_json(text.perplexity));
    if (!text.experts.empty()) one["layers"] = to_json(text.experts);
    out["texts"].push_back(std::move(one));
  }
  if (report.texts.size() > 1 && !report.texts.front().experts.empty())
    out["specialisation"] = eval::specialisation(experts_of(report));
  out["choices"] = Json::array();
  for (const ChoicesResult& choices : report.choices) {
    Json one = {{"name", printable(choices.name)}};
    one.update(to_json(choices.found, choices.asked));
    out["choices"].push_back(std::move(one));
  }
  require_finite(out, report.folder);
  return out;
}

// Of the column of names.
std::size_t width_of(const auto& results) {
  std::size_t out = 20;
  for (const auto& result : results) out = std::max(out, printable(result.name).size());
  return out;
}

void print_line(const std::string& name, std::size_t width, const eval::Perplexity& found) {
  const auto error = found.nll.standard_error();
  const double ppl = found.nll.perplexity();
  fmt::print("{:<{}} {:>9}  {:>17}  {:>19}  {:>9.1f}\n", printable(name), width, found.nll.tokens(),
             error ? fmt::format("{:.4f} ± {:.4f}", found.nll.nll(), *error)
                   : fmt::format("{:.4f}", found.nll.nll()),
             error ? fmt::format("{:.4g} ± {:.2g}", ppl, *error * ppl) : fmt::format("{:.4g}", ppl),
             rate(found));
}

void print_experts(const EvalReport& report) {
  using Layer = ExpertUse::Layer;
  const std::size_t width = width_of(report.texts);
  fmt::print("\n{:<{}} {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}\n", "experts", width, "load", "router",
             "busiest", "unused", "top", "logit");
  fmt::print("{:<{}} {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}\n", "(mean of layers)", width, "entropy",
             "entropy", "/ mean", "", "weight", "std");
  for (const TextResult& text : report.texts) {
    std::int64_t unused = 0;
    for (const Layer& layer : text.experts) unused += layer.unused;
    fmt::print("{:<{}} {:>9.3f}  {:>9}  {:>9.2f}  {:>9}  {:>9.3f}  {:>9}\n", printable(text.name), width,
               mean(text.experts, &Layer::load_entropy), mean_text(text.experts, &Layer::router_entropy),
               1 + mean(text.experts, &Layer::max_violation),
               fmt::format("{}/{}", unused, text.experts.size() * text.experts.front().load_E.size()),
               mean(text.experts, &Layer::top_weight), mean_text(text.experts, &Layer::logit_std));
  }
  const std::vector<double> special = eval::specialisation(experts_of(report));
  if (special.empty()) return;
  const auto most = std::ranges::max_element(special);
  fmt::print("specialisation by text: {:.4f} of 1 on average, {:.4f} in layer {}\n",
             std::accumulate(special.begin(), special.end(), 0.0) / static_cast<double>(special.size()),
             *most, most - special.begin());
}

void print_texts(const EvalReport& report) {
  const std::size_t width = width_of(report.texts);
  fmt::print("\n{:<{}} {:>9}  {:>17}  {:>19}  {:>9}\n", "text", width, "tokens", "nll", "perplexity",
             "tokens/s");
  for (const TextResult& text : report.texts) print_line(text.name, width, text.perplexity);
  if (report.texts.size() > 1) print_line("all", width, report.all);
  if (!report.texts.front().experts.empty()) print_experts(report);
}

void print_choices(const std::vector<ChoicesResult>& choices) {
  const auto shown = [](const eval::Accuracy& accuracy) {
    return accuracy.standard_error ? fmt::format("{:.4f} ± {:.4f}", accuracy.mean, *accuracy.standard_error)
                                   : fmt::format("{:.4f}", accuracy.mean);
  };
  const std::size_t width = width_of(choices);
  fmt::print("\n{:<{}} {:>9}  {:>17}  {:>19}  {:>9}\n", "choices", width, "questions", "acc", "acc_norm",
             "truncated");
  for (const auto& [name, asked, found] : choices)
    fmt::print("{:<{}} {:>9}  {:>17}  {:>19}  {:>9}\n", printable(name), width, found.questions.size(),
               shown(found.acc), shown(found.acc_norm), found.truncated);
}

// Lines about a router that is not the checkpoint's own, or that looks ahead.
std::string router_text(const RouterResult& router) {
  std::string out;
  if (router.is_other) {
    out = "router " + router.name;
    for (const auto& [key, value] : router.options) out += "," + key + "=" + printable(value);
    out += ", in place of the checkpoint's own\n";
  }
  if (!router.causal)
    out += fmt::format(
        "not causal: the router '{}' chooses a token's experts by looking at later tokens too, so these "
        "numbers are "
        "better than any generated text can be\n",
        router.name);
  return out;
}

}  // namespace

void print(const EvalReport& report) {
  finite_json(report);  // it has every number that the tables have
  fmt::print("{}\n", printable(report.folder));
  const std::string by = report.products.empty() ? "" : fmt::format(" ({})", report.products);
  fmt::print("weights {} on {}, arithmetic {}{}, {}", report.dtype, report.device, report.compute, by,
             counted(at::get_num_threads(), "thread"));
  const auto& [context, stride, most] = report.windows;
  if (!report.texts.empty())
    fmt::print("; windows of {} tokens{}", context,
               stride == context ? "" : fmt::format(", every {}", stride));
  fmt::print("\n{}", router_text(report.router));
  if (!report.texts.empty()) print_texts(report);
  if (!report.choices.empty()) print_choices(report.choices);
  fmt::print("\nmemory at the peak: {}\n", human_bytes(peak_memory()));
  if (report.partial) fmt::print("partial: the evaluation was interrupted before it was complete\n");
}

void print_json(const EvalReport& report) {
  fmt::print("{}\n", finite_json(report).dump(2, ' ', /*ensure_ascii=*/true));
}

}  // namespace upmoe::cli
