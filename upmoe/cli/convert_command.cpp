#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <memory>
#include <set>
#include <thread>

#include <sys/resource.h>

#include "upmoe/base/text.h"
#include "upmoe/checkpoint/match_weights.h"
#include "upmoe/checkpoint/output_folder.h"
#include "upmoe/cli/commands.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/progress_bar.h"
#include "upmoe/cli/ranks.h"
#include "upmoe/cli/settings.h"
#include "upmoe/convert/allowances.h"
#include "upmoe/convert/convert.h"
#include "upmoe/convert/disk_rate.h"
#include "upmoe/convert/record.h"
#include "upmoe/io/apart.h"
#include "upmoe/router_init/registry.h"
#include "upmoe/target/registry.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe::cli {
namespace {

constexpr const char* kRouterPrefix = "router-";

template <class Entry>
Choice choice_of(const std::string& preset, const std::vector<Entry>& registry) {
  Choice out{preset, {}};
  for (const Entry& entry : registry) out.of.push_back(entry.name);
  return out;
}

// The options that belong to no plug-in.
struct ConvertOptions {
  Choice method = choice_of("drop", upcycle::methods());
  std::int64_t experts = 8, top_k = 2;
  Choice target = choice_of("mixtral", target::targets());
  Choice router_init = choice_of("auto", router_init::router_inits());
  std::int64_t seed = 0;
  std::string max_shard_size = "5GB";
  std::int64_t threads = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  std::string ranks = "1";
  std::int64_t rank = -1;
  bool keep_tied = false, resume = false, reflink = false, dry_run = false, measure_disk = false;
  bool replace = false;
  Choices allow{{}, allowance_names()};
  void visit(auto&& field) {
    field(method, "method", "what the experts are made of");
    field(experts, "experts", "experts in each layer");
    field(top_k, "top-k", "experts for each token");
    field(target, "target", "architecture of the output");
    field(router_init, "router-init", "where the routers start");
    field(seed, "seed", "every random draw follows from it");
    field(max_shard_size, "max-shard-size", "tensor data in one file at most: 5GB, 512MiB ...");
    field(threads, "threads", "workers, of which 10 at most are used; the bytes do not depend on how many");
    field(ranks, "ranks", "processes that share the work, file by file; auto: as torchrun, Slurm or MPI say");
    field(rank, "rank", "which of them this is, from 0 on");
    field(keep_tied, "keep-tied",
          "leave a tied head tied, instead of writing it out for readers that cannot tie");
    field(resume, "resume", "go on with what a killed run has left, and leave such when this one is stopped");
    field(reflink, "reflink", "let equal experts share their place on the disk, where the file system can");
    field(dry_run, "dry-run", "check and print the plan, and write nothing");
    field(measure_disk, "measure-disk",
          "with --dry-run: write and delete 128 MiB beside the output to forecast the time");
    field(replace, "replace", "replace an output that is there");
    field(allow, "allow", "do what upmoe advises against; may be given several times");
  }
};

// Options of plug-ins; they share a name where they mean the same (--ratio of drop and noise).
template <class Entry>
std::vector<OptionInfo> plugin_options(const std::vector<Entry>& registry, const std::string& prefix) {
  std::vector<OptionInfo> out;
  std::set<std::string> added;
  for (const Entry& entry : registry)
    for (OptionInfo option : entry.options)
      if (added.insert(option.name).second) {
        option.name = prefix + option.name;
        out.push_back(std::move(option));
      }
  return out;
}
std::vector<OptionInfo> method_options() { return plugin_options(upcycle::methods(), ""); }
std::vector<OptionInfo> router_options() {
  return plugin_options(router_init::router_inits(), kRouterPrefix);
}

struct Arguments {
  Settings settings;
  std::string source, output, recipe;
};

void print_plan(const Plan& plan, const std::string& output) {
  const ConvertRequest& request = plan.request;
  const DenseConfig& config = plan.source.config();
  const auto options = [](const std::vector<OptionInfo>& list) {
    std::string out;
    for (const OptionInfo& option : list)
      out += fmt::format("{}{} {}", out.empty() ? " (" : ", ", option.name, option.preset);
    return out.empty() ? out : out + ")";
  };
  fmt::print("source      {}: {}, {} layers, hidden {}, FFN {}, {} parameters, {}\n",
             printable(request.source), config.model_type, config.num_layers, config.hidden_size,
             config.intermediate_size, human_count(plan.source.parameters()), plan.torch_dtype);
  fmt::print("method      {}{}, seed {}\n", request.method, options(plan.method_options), request.seed);
  fmt::print("router      {}{}\n", request.router_init, options(plan.router_options));
  fmt::print("target      {}: {} experts, top-{}{}\n", request.target, plan.shape.experts,
             plan.shape.per_token, plan.tied ? ", head tied to the embedding" : "");
  fmt::print("parameters  {}, {} of them active for a token\n", human_count(plan.parameters),
             human_count(plan.active_parameters));
  fmt::print("output      {}: {} in {} file{}\n", printable(output), human_bytes(plan.file_bytes),
             plan.files.size(), plan.files.size() == 1 ? "" : "s");
  fmt::print("memory      {} at most\n", human_bytes(plan.peak_memory));
  fmt::print("function-preserving: {}\n", function_preserving(plan));
  for (const std::string& note : plan.notes) fmt::print("note: {}\n", note);
}

void print_time_forecast(const Plan& plan, const std::string& output, bool measure) {
  const double rate = measure ? measure_write_rate(std::filesystem::absolute(output).parent_path()) : 1e9;
  fmt::print("time        about {:.1f} s at {}/s{}\n",
             static_cast<double>(plan.file_bytes + plan.source.data_bytes()) / rate,
             human_bytes(static_cast<std::uint64_t>(rate)),
             measure ? ", which this disk has just reached" : " (--measure-disk measures this disk)");
}

std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

void print_outcome(const Converted& converted, const ConvertOptions& options, const RankOf& rank,
                   double seconds) {
  const RunRecord& run = converted.run;
  if (run.bytes_kept > 0)
    fmt::print("kept        {} that an earlier run had written, read back and checked\n",
               human_bytes(run.bytes_kept));
  if (!run.reflink_refused.empty())
    fmt::print("reflink     not on this file system ({}): everything was written\n", run.reflink_refused);
  else if (options.reflink)
    fmt::print("reflink     {} share the place of what was written once, {} were written\n",
               human_bytes(run.bytes_shared), human_bytes(run.bytes_written));
  const auto bytes = static_cast<double>(run.bytes_kept + run.bytes_written + run.bytes_shared);
  fmt::print("done        {:.2f} s, {}/s, {} of memory at the peak\n", seconds,
             human_bytes(static_cast<std::uint64_t>(bytes / seconds)), human_bytes(peak_memory()));
  if (rank.ranks > 1 && converted.missing.empty())
    fmt::print("complete    the output was completed by {} rank\n", converted.completed ? "this" : "another");
  if (converted.missing.empty()) return;
  std::vector<std::string> missing;
  for (const std::size_t other : converted.missing) missing.push_back(std::to_string(other));
  fmt::print("missing     rank {} of {} is done, not yet done: {}; who finishes last completes the output\n",
             rank.rank, rank.ranks, some(missing));
}

// Positionals win over the recipe; one of the two alone would be a riddle.
void take_places(Arguments& arguments, Values& values) {
  const auto take_one = [&](const char* key, std::string& place) {
    const auto node = values.extract(key);
    if (place.empty() && node) place = node.mapped();
  };
  if (!arguments.source.empty() && arguments.output.empty())
    throw UsageError(fmt::format("'{}' stands alone: name the source and the output, upmoe convert SRC OUT",
                                 printable(arguments.source)));
  take_one("source", arguments.source);
  take_one("output", arguments.output);
  if (arguments.source.empty() || arguments.output.empty())
    throw UsageError("name the source and the output: upmoe convert SRC OUT");
}

ConvertRequest request_of(Arguments& arguments, Values& values, const ConvertOptions& options) {
  ConvertRequest request;
  request.source = arguments.source;
  request.method = options.method.value;
  request.router_init = options.router_init.value;
  request.target = options.target.value;
  const MethodInfo& method = find_plugin(upcycle::methods(), request.method, "upcycling method");
  const RouterInitInfo& router = find_plugin(router_init::router_inits(), request.router_init, "router init");
  request.method_options = take(values, method.options);
  request.router_options = take(values, router.options, kRouterPrefix);
  // What is left belongs to a plug-in that was not chosen.
  for (const auto& [name, value] : values) {
    const bool of_router = name.starts_with(kRouterPrefix);
    std::vector<std::string> has;
    for (const OptionInfo& option : of_router ? router.options : method.options)
      has.push_back("--" + (of_router ? kRouterPrefix + option.name : option.name));
    throw UsageError(fmt::format(
        "{} '{}' has no option --{}; it has: {}", of_router ? "router init" : "method",
        of_router ? request.router_init : request.method, name, has.empty() ? "none" : join(has)));
  }
  request.experts = options.experts;
  request.per_token = options.top_k;
  if (options.seed < 0) throw UsageError(fmt::format("--seed is {}, expected 0 or more", options.seed));
  request.seed = static_cast<std::uint64_t>(options.seed);
  request.keep_tied = options.keep_tied;
  request.max_shard_bytes = parse_bytes(options.max_shard_size, "--max-shard-size");
  request.replace = options.replace;
  request.allow = options.allow.values;
  return request;
}

// upmoe up to 0.1.0 wrote `force = true` where a router start had to be forced; there it replaced the output
// as well, which no recipe does any more.
void take_force(const Arguments& arguments, Values& values) {
  const auto node = values.extract("force");
  bool forced = false;
  if (node) option_value::read(forced, "force", node.mapped());
  if (!forced) return;
  std::string& allow = values["allow"];
  allow += allow.empty() ? "router-init" : ",router-init";
  fmt::print("note: {}: 'force' is read as allow = [\"router-init\"]; it does not replace the output\n",
             printable(arguments.recipe));
}

int run(Arguments& arguments) {
  Values values = arguments.settings.values(arguments.recipe, {"source", "output", "force"});
  take_force(arguments, values);
  take_places(arguments, values);
  const ConvertOptions options = parse<ConvertOptions>(take(values, describe<ConvertOptions>()), "convert");
  if (options.threads < 1 || options.threads > 4096)
    throw UsageError(fmt::format("--threads is {}, expected 1 to 4096", options.threads));
  require_asked(options.dry_run || !options.measure_disk, "--measure-disk is given without --dry-run");
  const RankOf rank = find_rank(options.ranks, options.rank);
  ConvertRequest request = request_of(arguments, values, options);
  const Source source = find_source(request.source);
  request.folder = source.folder;
  request.from_hub = source.from_hub;
  if (!arguments.recipe.empty()) require_apart(arguments.output, arguments.recipe);
  if (!options.resume && rank.ranks == 1) check_output(arguments.output, request.folder, request.replace);

  const Plan plan = make_plan(request);
  RunOptions how = {.threads = static_cast<std::size_t>(options.threads),
                    .resume = options.resume,
                    .rank = rank,
                    .reflink = options.reflink};
  const bool done = is_done(plan, arguments.output, how);
  print_plan(plan, arguments.output);
  if (done) {
    fmt::print("complete    the output is there already, made by the same conversion; nothing was written\n");
    return kOk;
  }
  if (options.dry_run) {
    check_convert(plan, arguments.output, how);
    print_time_forecast(plan, arguments.output, options.measure_disk);
    return kOk;
  }
  std::fflush(stdout);
  how.cancelled = &catch_interrupts();
  const auto start = std::chrono::steady_clock::now();
  Converted converted;
  {
    ProgressBar bar("writing");
    how.progress = [&](auto written, auto total) { bar.update(written, total); };
    converted = convert(plan, arguments.output, how);
  }
  print_outcome(converted, options, rank,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return kOk;
}

}  // namespace

std::vector<OptionInfo> convert_options() {
  std::vector<OptionInfo> out = describe<ConvertOptions>();
  out.push_back({"recipe", "", "TOML file of options", {}, "file"});
  for (const auto& options : {method_options(), router_options()})
    out.insert(out.end(), options.begin(), options.end());
  return out;
}

Action convert_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("SRC", arguments->source,
                 "folder of a dense checkpoint, or a hub id: owner/name or owner/name@revision");
  app.add_option("OUT", arguments->output, "folder to be made");
  const auto add = [&](const std::vector<OptionInfo>& options, const char* group) {
    for (const OptionInfo& option : options) arguments->settings.add(app, option, group);
  };
  add(describe<ConvertOptions>(), "Options");
  app.add_option("--recipe", arguments->recipe,
                 "TOML file with any of these options, by the same names; the command line wins")
      ->type_name("FILE");
  add(method_options(), "Options of the methods (upmoe methods)");
  add(router_options(), "Options of the router starts (upmoe router-inits)");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
