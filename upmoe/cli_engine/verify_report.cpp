#include "upmoe/cli_engine/verify_report.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "upmoe/base/counted.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/terminal.h"
#include "upmoe/cli_engine/finite.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;
using Kept = Receipt::Kept;

constexpr std::size_t kMostExperts = 16, kMostLines = 5;  // that are listed one by one

class Text {
 public:
  template <class... Args>
  void operator()(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  std::string take() && { return std::move(text_); }

 private:
  std::string text_;
};

// Of an expert, over all layers.
Kept total(const Receipt& receipt, std::size_t e) {
  Kept out;
  for (const std::vector<Kept>& layer : receipt.kept) {
    const Kept& one = layer[e];
    for (const auto of : {&Kept::gate, &Kept::up, &Kept::down, &Kept::paired, &Kept::whole, &Kept::moved})
      out.*of += one.*of;
  }
  return out;
}

// The shares of a line, of so many neurons.
std::string kept_text(const Kept& kept, double neurons) {
  std::string out;
  for (const auto of : {&Kept::gate, &Kept::up, &Kept::down, &Kept::whole})
    out += fmt::format("{:>8.2f} %", 100 * static_cast<double>(kept.*of) / neurons);
  if (kept.moved > 0)
    out += fmt::format("   {:.2f} % in another place", 100 * static_cast<double>(kept.moved) / neurons);
  return out;
}

// Experts first to last, one after the other, whose line is the same.
struct Run {
  std::size_t first, last;
  std::string text;
};
std::string name_of(const Run& run) {
  return run.first == run.last ? fmt::format("expert {}", run.first)
                               : fmt::format("experts {}–{}", run.first, run.last);
}

void write_kept(Text& out, const Receipt& receipt) {
  const auto neurons = static_cast<double>(receipt.expert_size * receipt.num_layers);
  out("\n{:<14}{:>10}{:>10}{:>10}{:>10}   of an expert's neurons, byte for byte the dense FFN's\n", "kept",
      "gate", "up", "down", "all three");
  Kept all;
  std::vector<Run> runs;
  const auto E = static_cast<std::size_t>(receipt.num_experts);
  for (std::size_t e = 0; e < E; ++e) {
    const Kept kept = total(receipt, e);
    const std::string text = kept_text(kept, neurons);
    if (runs.empty() || runs.back().text != text) runs.push_back({e, e, text});
    runs.back().last = e;
    for (const auto of : {&Kept::gate, &Kept::up, &Kept::down, &Kept::whole, &Kept::moved})
      all.*of += kept.*of;
  }
  if (runs.size() <= kMostExperts)
    for (const Run& run : runs) out("{:<14}{}\n", name_of(run), run.text);
  if (runs.size() > 1)
    out("{:<14}{}\n", fmt::format("all {}", E), kept_text(all, neurons * static_cast<double>(E)));
  const std::int64_t covered =
      std::accumulate(receipt.covered.begin(), receipt.covered.end(), std::int64_t{0});
  out("{:<12}{:.2f} % of the dense FFN's neurons, gate and up, are in at least one expert\n", "covered",
      100 * static_cast<double>(covered) / static_cast<double>(receipt.dense_size * receipt.num_layers));
}

void write_lines(Text& out, const std::string& indent, const std::vector<std::string>& lines) {
  for (std::size_t i = 0; i < std::min(lines.size(), kMostLines); ++i)
    out("{}{}\n", indent, printable(lines[i]));
  if (lines.size() > kMostLines) out("{}and {} more\n", indent, lines.size() - kMostLines);
}

void write_others(Text& out, const Receipt& receipt) {
  out("{:<12}{} of {} tensors outside the FFNs are the dense model's{}\n", "others", receipt.identical,
      receipt.others, receipt.head_written_out ? ", and so is the head, which was tied" : "");
  std::vector<std::string> lines;
  for (const Receipt::Other& other : receipt.not_identical) lines.push_back(other.name + " " + other.what);
  write_lines(out, std::string(12, ' '), lines);
  for (const auto& [what, count] : receipt.dtypes)
    out("{:<12}{}: {}\n", "type", what, counted(static_cast<std::int64_t>(count), "tensor"));
}

std::string load_text(const std::vector<std::int64_t>& load_E) {
  const auto sum = static_cast<double>(std::accumulate(load_E.begin(), load_E.end(), std::int64_t{0}));
  const auto share = [&](std::int64_t load) { return 100 * static_cast<double>(load) / std::max(sum, 1.0); };
  if (load_E.size() > kMostExperts)
    return fmt::format("{:.1f} to {:.1f}", share(std::ranges::min(load_E)), share(std::ranges::max(load_E)));
  std::string out;
  for (const std::int64_t load : load_E) out += fmt::format("{}{:.0f}", out.empty() ? "" : " ", share(load));
  return out;
}

// "-" where there was nothing to compare with.
std::string error_text(std::optional<double> error) { return error ? fmt::format("{:.3g}", *error) : "-"; }
Json error_json(std::optional<double> error) { return error ? Json(*error) : Json(); }

void write_comparison(Text& out, const Verified& found, const eval::Comparison& c) {
  out("\non {}: {} in windows of {}, arithmetic {}\n", printable(found.data), counted(c.tokens, "token"),
      found.windows.context, found.compute);
  const auto error = [](const eval::NllSum& nll) {
    const auto known = nll.standard_error();
    return known ? fmt::format(" ± {:.4f}", *known) : std::string();
  };
  out("{:<12}perplexity {:.2f}, nll {:.4f}{}\n", "dense", c.dense.perplexity(), c.dense.nll(),
      error(c.dense));
  out("{:<12}perplexity {:.2f}, nll {:.4f}{}\n", "this", c.moe.perplexity(), c.moe.nll(), error(c.moe));
  out("{:<12}max |difference| {:.3g}, which is {} of the largest; mean {:.3g}\n", "logits", c.most_difference,
      error_text(c.relative_difference()), c.mean_difference);
  out("{:<12}KL(dense || this) {:.4g} nats a token, at most {:.4g}\n", "predictions", c.kl_mean, c.kl_most);
  out("{:<12}{:.2f} % of tokens have the same most likely successor\n", "top-1", 100 * c.agreement);
  out("\n{:<6}{:>10}{:>10}{:>20}{:>10}{:>10}\n", "", "FFN", "", "expert similarity", "router", "logit");
  out("{:<6}{:>10}{:>10}{:>20}{:>10}{:>10}   load of each expert, %\n", "layer", "error", "drift", "(cosine)",
      "entropy", "std");
  const auto digits = [](std::optional<double> number, int count) {
    return number ? fmt::format("{:.{}f}", *number, count) : "-";
  };
  for (std::size_t l = 0; l < c.layers.size(); ++l)
    out("{:<6}{:>10}{:>10}{:>20.4f}{:>10}{:>10}   {}\n", l, error_text(c.layers[l].ffn_error),
        error_text(c.layers[l].drift), c.layers[l].expert_cosine, digits(c.experts[l].router_entropy, 4),
        digits(c.experts[l].logit_std, 3), load_text(c.experts[l].load_E));
}

void write_verdict(Text& out, const std::vector<Promise>& promises) {
  const std::size_t all = promises.size();
  const auto broken = static_cast<std::size_t>(
      std::ranges::count_if(promises, [](const Promise& promise) { return !promise.broken.empty(); }));
  if (broken == 0)
    out("{}: {} of {} promises hold\n", green("PASS", STDOUT_FILENO), all, all);
  else
    out("{}: {} of {} promises {} not hold\n", red("FAIL", STDOUT_FILENO), broken, all,
        broken == 1 ? "does" : "do");
}

void write_promises(Text& out, const Receipt& receipt) {
  if (receipt.method.empty()) {
    out("\nno upmoe.json: nothing was promised\n");
    return;
  }
  out("\npromised by upmoe.json ({}{})\n", printable(receipt.method),
      receipt.promised_exact ? ", function-preserving"
                             : "; not function-preserving, because " + printable(receipt.not_exact_because));
  for (const Promise& promise : receipt.promises) {
    const bool holds = promise.broken.empty();
    const std::string verdict = fmt::format("{:<9}", holds ? "holds" : "BROKEN");
    out("{} {}\n", holds ? verdict : red(verdict, STDOUT_FILENO), promise.text);
    write_lines(out, std::string(10, ' '), promise.broken);
  }
  for (const std::string& note : receipt.notes) out("note: {}\n", note);
  write_verdict(out, receipt.promises);
}

Json layer_json(const eval::Comparison::Layer& layer, const eval::ExpertUse::Layer& use) {
  return {{"ffn_error", error_json(layer.ffn_error)},
          {"drift", error_json(layer.drift)},
          {"expert_cosine", layer.expert_cosine},
          {"router_entropy", error_json(use.router_entropy)},
          {"load_entropy", use.load_entropy},
          {"logit_std", error_json(use.logit_std)},
          {"load", use.load_E}};
}

Json comparison_json(const Verified& found, const eval::Comparison& c) {
  const auto text = [](const eval::NllSum& nll) {
    const auto error = nll.standard_error();
    return Json(
        {{"ppl", nll.perplexity()}, {"nll", nll.nll()}, {"nll_stderr", error ? Json(*error) : Json()}});
  };
  Json layers = Json::array();
  for (std::size_t l = 0; l < c.layers.size(); ++l) layers.push_back(layer_json(c.layers[l], c.experts[l]));
  return {{"data", printable(found.data)},
          {"tokens", c.tokens},
          {"context", found.windows.context},
          {"compute", found.compute},
          {"dense", text(c.dense)},
          {"moe", text(c.moe)},
          {"max_logit_difference", c.most_difference},
          {"relative_logit_difference", error_json(c.relative_difference())},
          {"mean_logit_difference", c.mean_difference},
          {"kl_mean", c.kl_mean},
          {"kl_max", c.kl_most},
          {"top1_agreement", c.agreement},
          {"layers", layers}};
}

Json to_json(const Verified& found) {
  const Receipt& receipt = found.receipt;
  Json kept = Json::array(), others = Json::array(), promises = Json::array();
  for (const std::vector<Kept>& layer : receipt.kept) {
    Json experts = Json::array();
    for (const Kept& one : layer)
      experts.push_back({{"gate", one.gate},
                         {"up", one.up},
                         {"down", one.down},
                         {"gate_and_up", one.paired},
                         {"all_three", one.whole},
                         {"moved", one.moved}});
    kept.push_back(std::move(experts));
  }
  for (const Receipt::Other& other : receipt.not_identical)
    others.push_back({{"name", printable(other.name)}, {"what", other.what}});
  for (const Promise& promise : receipt.promises) {
    Json broken = Json::array();
    for (const std::string& line : promise.broken) broken.push_back(printable(line));
    promises.push_back({{"name", promise.name},
                        {"text", promise.text},
                        {"holds", promise.broken.empty()},
                        {"broken", broken}});
  }
  Json out = {{"model", printable(found.moe)},
              {"against", printable(found.against)},
              {"holds", receipt.holds()},
              {"method", receipt.method.empty() ? Json() : Json(receipt.method)},
              {"function_preserving", receipt.method.empty() ? Json() : Json(receipt.promised_exact)},
              {"not_exact_because", printable(receipt.not_exact_because)},
              {"num_layers", receipt.num_layers},
              {"num_experts", receipt.num_experts},
              {"top_k", receipt.top_k},
              {"expert_size", receipt.expert_size},
              {"dense_size", receipt.dense_size},
              {"kept", kept},
              {"covered", receipt.covered},
              {"others",
               {{"tensors", receipt.others},
                {"identical", receipt.identical},
                {"head_written_out", receipt.head_written_out},
                {"not_identical", others}}},
              {"dtypes", receipt.dtypes},
              {"promises", promises},
              {"notes", receipt.notes}};
  if (found.comparison) out["comparison"] = comparison_json(found, *found.comparison);
  require_finite(out, found.moe);
  return out;
}

}  // namespace

std::string receipt_json(const Verified& found) {
  return to_json(found).dump(2, ' ', /*ensure_ascii=*/true) + "\n";
}

std::string receipt_text(const Verified& found) {
  to_json(found);  // it has every number that the tables have
  const Receipt& receipt = found.receipt;
  Text out;
  out("{}\nagainst {}\n{}, {} of {}, top-{}; the dense FFN has {}\n", printable(found.moe),
      printable(found.against), counted(receipt.num_layers, "layer"), counted(receipt.num_experts, "expert"),
      counted(receipt.expert_size, "neuron"), receipt.top_k, receipt.dense_size);
  write_kept(out, receipt);
  write_others(out, receipt);
  if (found.comparison) write_comparison(out, found, *found.comparison);
  write_promises(out, receipt);
  return std::move(out).take();
}

}  // namespace upmoe::cli
