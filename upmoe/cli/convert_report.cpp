#include "upmoe/cli/convert_report.h"

#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "upmoe/base/text.h"
#include "upmoe/checkpoint/match_weights.h"
#include "upmoe/convert/record.h"

namespace upmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

std::uint64_t bytes_of(const RunRecord& run) { return run.bytes_kept + run.bytes_written + run.bytes_shared; }

std::string options_text(const std::vector<OptionInfo>& list) {
  std::string out;
  for (const OptionInfo& option : list)
    out += fmt::format("{}{} {}", out.empty() ? " (" : ", ", option.name, option.preset);
  return out.empty() ? out : out + ")";
}

Json options_json(const std::vector<OptionInfo>& list) {
  Json out = Json::object();
  for (const OptionInfo& option : list)
    out[option.name] = option.type == "text" ? Json(option.preset) : Json::parse(option.preset);
  return out;
}

}  // namespace

std::string plan_text(const Plan& plan, const std::string& output) {
  const ConvertRequest& request = plan.request;
  const DenseConfig& config = plan.source.config();
  std::string out = fmt::format(
      "source      {}: {}, {}, hidden size {}, FFN size {}, {} parameters, {}\n", printable(request.source),
      config.model_type, plural(config.num_layers, "layer"), config.hidden_size, config.intermediate_size,
      human_count(plan.source.parameters()), plan.torch_dtype);
  out += fmt::format("method      {}{}, seed {}\n", request.method, options_text(plan.method_options),
                     request.seed);
  out += fmt::format("router      {}{}\n", request.router_init, options_text(plan.router_options));
  out += fmt::format("target      {}: {}, top-{}{}\n", request.target, plural(plan.shape.experts, "expert"),
                     plan.shape.per_token,
                     plan.tied                                  ? ", lm_head tied"
                     : plan.source.config().tie_word_embeddings ? ", lm_head untied"
                                                                : "");
  out += fmt::format("parameters  {}, {} of them active for each token\n", human_count(plan.parameters),
                     human_count(plan.active_parameters));
  out += fmt::format("output      {}: {} in {}\n", printable(output), human_bytes(plan.file_bytes),
                     plural(static_cast<std::int64_t>(plan.files.size()), "file"));
  out += fmt::format("memory      {} at most\n", human_bytes(plan.peak_memory));
  out += fmt::format("function-preserving: {}\n", function_preserving(plan));
  for (const std::string& note : plan.notes) out += fmt::format("note: {}\n", note);
  return out;
}

Json plan_json(const Plan& plan, const std::string& output) {
  const ConvertRequest& request = plan.request;
  const DenseConfig& config = plan.source.config();
  Json notes = Json::array();
  for (const std::string& note : plan.notes) notes.push_back(printable(note, std::string::npos));
  return {{"source",
           {{"name", printable(request.source, std::string::npos)},
            {"model_type", config.model_type},
            {"num_layers", config.num_layers},
            {"hidden_size", config.hidden_size},
            {"intermediate_size", config.intermediate_size},
            {"parameters", plan.source.parameters()},
            {"dtype", plan.torch_dtype}}},
          {"output", printable(output, std::string::npos)},
          {"method", request.method},
          {"method_options", options_json(plan.method_options)},
          {"router_init", request.router_init},
          {"router_options", options_json(plan.router_options)},
          {"target", request.target},
          {"seed", request.seed},
          {"num_experts", plan.shape.experts},
          {"top_k", plan.shape.per_token},
          {"expert_size", plan.shape.expert_size},
          {"tied", plan.tied},
          {"parameters", plan.parameters},
          {"active_parameters", plan.active_parameters},
          {"bytes", plan.file_bytes},
          {"num_files", plan.files.size()},
          {"peak_memory_at_most", plan.peak_memory},
          {"function_preserving", plan.not_exact_because.empty()},
          {"not_exact_because", plan.not_exact_because},
          {"notes", notes}};
}

std::string forecast_text(const Forecast& forecast) {
  return fmt::format(
      "time        about {:.1f} s at {}/s{}\n", forecast.seconds,
      human_bytes(static_cast<std::uint64_t>(forecast.bytes_per_second)),
      forecast.measured ? ", which this disk has just reached" : " (--measure-disk measures this disk)");
}

Json forecast_json(const Forecast& forecast) {
  return {{"seconds", forecast.seconds},
          {"bytes_per_second", forecast.bytes_per_second},
          {"measured", forecast.measured}};
}

std::string outcome_text(const Converted& converted, const RunOptions& options, double seconds) {
  const RunRecord& run = converted.run;
  const RankOf& rank = options.rank;
  std::string out;
  if (run.bytes_kept > 0)
    out += fmt::format("kept        {} that an earlier run had written, read back and checked\n",
                       human_bytes(run.bytes_kept));
  if (!run.reflink_refused.empty())
    out += fmt::format("reflink     not on this file system ({}): everything was written\n",
                       run.reflink_refused);
  else if (options.reflink)
    out += fmt::format("reflink     {} share the place of what was written once, {} were written\n",
                       human_bytes(run.bytes_shared), human_bytes(run.bytes_written));
  out += fmt::format("done        {:.2f} s, {}/s, {} of memory at the peak\n", seconds,
                     human_bytes(static_cast<std::uint64_t>(static_cast<double>(bytes_of(run)) / seconds)),
                     human_bytes(peak_memory()));
  if (rank.ranks > 1 && converted.missing.empty())
    out += fmt::format("complete    {} rank has completed the output\n",
                       converted.completed ? "this" : "another");
  if (converted.missing.empty()) return out;
  std::vector<std::string> missing;
  for (const std::size_t other : converted.missing) missing.push_back(std::to_string(other));
  return out +
         fmt::format(
             "missing     rank {} of {} is done, not yet done: {}; the last rank completes the output\n",
             rank.rank, rank.ranks, some(missing));
}

Json outcome_json(const Converted& converted, double seconds) {
  const RunRecord& run = converted.run;
  return {{"complete", converted.missing.empty()},
          {"missing_ranks", converted.missing},
          {"seconds", seconds},
          {"bytes_kept", run.bytes_kept},
          {"bytes_written", run.bytes_written},
          {"bytes_shared", run.bytes_shared},
          {"peak_memory", peak_memory()}};
}

std::string next_command(const Plan& plan, const std::string& output) {
  return fmt::format("upmoe verify {} --against {}", shell_word(output), shell_word(plan.request.source));
}

}  // namespace upmoe::cli
