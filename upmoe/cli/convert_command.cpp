#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "upmoe/base/text.h"
#include "upmoe/checkpoint/output_folder.h"
#include "upmoe/cli/commands.h"
#include "upmoe/cli/convert_report.h"
#include "upmoe/cli/help.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/progress_bar.h"
#include "upmoe/cli/ranks.h"
#include "upmoe/cli/settings.h"
#include "upmoe/convert/allowances.h"
#include "upmoe/convert/convert.h"
#include "upmoe/convert/disk_rate.h"
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

// The options that belong to no plug-in, by their headings in --help.
struct ModelOptions {
  Choice method = choice_of("drop", upcycle::methods());
  std::int64_t experts = 8, top_k = 2;
  Choice target = choice_of("mixtral", target::targets());
  Choice router_init = choice_of("auto", router_init::router_inits());
  std::int64_t seed = 0;
  bool keep_tied = false;
  Choices allow{{}, allowance_names()};
  void visit(auto&& field) {
    field(method, "method", "upcycling method (upmoe methods)");
    field(experts, "experts", "experts in each layer");
    field(top_k, "top-k", "experts for each token");
    field(target, "target", "architecture of the output");
    field(router_init, "router-init", "router initialisation (upmoe router-inits)");
    field(seed, "seed", "random seed; the same seed gives the same model");
    field(keep_tied, "keep-tied", "keep lm_head tied to the embedding, instead of writing it out");
    field(allow, "allow", "do what upmoe advises against; may be given several times");
  }
};
struct OutputOptions {
  std::string max_shard_size = "5GB";
  bool reflink = false, replace = false;
  void visit(auto&& field) {
    field(max_shard_size, "max-shard-size", "largest size of a file of weights, such as 5GB or 512MiB");
    field(reflink, "reflink", "let identical experts share disk blocks, where the file system can");
    field(replace, "replace", "replace an existing output");
  }
};
struct RunFlags {
  bool dry_run = false, measure_disk = false, resume = false;
  std::string ranks = "1", rank;
  std::int64_t threads = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  bool json = false, quiet = false;
  void visit(auto&& field) {
    field(dry_run, "dry-run", "check everything, print the plan and write nothing");
    field(measure_disk, "measure-disk",
          "with --dry-run: write and delete 128 MiB beside the output to forecast the time");
    field(resume, "resume",
          "continue an interrupted run, and keep what is done when this one is interrupted");
    field(ranks, "ranks", "processes that share the work, file by file; auto: from torchrun, Slurm or MPI");
    field(rank, "rank", "the rank of this process, from 0 on (required with --ranks N)");
    field(threads, "threads",
          "worker threads, of which at most 10 are used; the output does not depend on it");
    field(json, "json", "print one JSON object with plan and result; messages go to standard error");
    field(quiet, "quiet", "print errors only");
  }
};
struct ConvertOptions {
  ModelOptions model;
  OutputOptions output;
  RunFlags run;
  void visit(auto&& field) {
    model.visit(field);
    output.visit(field);
    run.visit(field);
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

// Positionals win over the recipe; a source alone would be a riddle.
void take_places(Arguments& arguments, Values& values) {
  const auto take_one = [&](const char* key, std::string& place) {
    const auto node = values.extract(key);
    if (place.empty() && node) place = node.mapped();
  };
  const bool alone = !arguments.source.empty() && arguments.output.empty();
  take_one("source", arguments.source);
  if (!alone) take_one("output", arguments.output);
  const char* const missing = arguments.source.empty() && arguments.output.empty() ? "SRC and OUT"
                              : arguments.source.empty()                           ? "SRC"
                              : arguments.output.empty()                           ? "OUT"
                                                                                   : nullptr;
  if (missing != nullptr) throw UsageError(fmt::format("missing {}; usage: upmoe convert SRC OUT", missing));
}

// What a recipe says for a plug-in that the command line replaces by another goes, unless the other one has
// it as well: there it means the same.
template <class Entry>
void drop_replaced(Values& recipe, const Arguments& arguments, const std::string& key,
                   const std::string& preset, const std::vector<Entry>& registry, const std::string& prefix,
                   std::vector<std::string>& notes) {
  const std::string now = arguments.settings.given(key);
  const std::string then = recipe.contains(key) ? recipe.at(key) : preset;
  const auto entry_of = [&](const std::string& name) {
    return std::ranges::find(registry, name, &Entry::name);
  };
  if (now.empty() || now == then || entry_of(now) == registry.end() || entry_of(then) == registry.end())
    return;
  for (const OptionInfo& option : entry_of(then)->options)
    if (std::ranges::find(entry_of(now)->options, option.name, &OptionInfo::name) ==
            entry_of(now)->options.end() &&
        recipe.erase(prefix + option.name) > 0)
      notes.push_back(fmt::format("{}: '{}' belongs to {} '{}', which --{} {} replaces, and is left out",
                                  printable(arguments.recipe), prefix + option.name, key, then, key, now));
}

ConvertRequest request_of(Arguments& arguments, Values& values, const ConvertOptions& options) {
  ConvertRequest request;
  request.source = arguments.source;
  request.method = options.model.method.value;
  request.router_init = options.model.router_init.value;
  request.target = options.model.target.value;
  const MethodInfo& method = find_plugin(upcycle::methods(), request.method, "upcycling method");
  const RouterInitInfo& router =
      find_plugin(router_init::router_inits(), request.router_init, "router initialisation");
  request.method_options = take(values, method.options);
  request.router_options = take(values, router.options, kRouterPrefix);
  // What is left belongs to a plug-in that was not chosen.
  for (const auto& [name, value] : values) {
    const bool of_router = name.starts_with(kRouterPrefix);
    std::vector<std::string> has;
    for (const OptionInfo& option : of_router ? router.options : method.options)
      has.push_back("--" + (of_router ? kRouterPrefix + option.name : option.name));
    throw UsageError(fmt::format(
        "{} '{}' has no option --{}; it has: {}", of_router ? "router initialisation" : "method",
        of_router ? request.router_init : request.method, name, has.empty() ? "none" : join(has)));
  }
  request.experts = options.model.experts;
  request.per_token = options.model.top_k;
  require_asked(options.model.seed >= 0, "--seed is {}, expected 0 or more", options.model.seed);
  request.seed = static_cast<std::uint64_t>(options.model.seed);
  request.keep_tied = options.model.keep_tied;
  request.max_shard_bytes = parse_bytes(options.output.max_shard_size, "--max-shard-size");
  request.replace = options.output.replace;
  request.allow = options.model.allow.values;
  return request;
}

// upmoe up to 0.1.0 wrote `force = true` where a router start had to be forced; there it replaced the output
// as well, which no recipe does any more.
void take_force(const Arguments& arguments, Values& recipe, std::vector<std::string>& notes) {
  const auto node = recipe.extract("force");
  bool forced = false;
  if (node) option_value::read(forced, "force", node.mapped());
  if (!forced) return;
  std::string& allow = recipe["allow"];
  allow += allow.empty() ? "router-init" : ",router-init";
  notes.push_back(
      fmt::format("{}: 'force' is read as allow = [\"router-init\"]; it does not replace the output",
                  printable(arguments.recipe)));
}

// The recipe, and over it the command line.
Values read_values(const Arguments& arguments, std::vector<std::string>& notes) {
  Values recipe = arguments.settings.recipe(arguments.recipe, {"source", "output"});
  take_force(arguments, recipe, notes);
  const ModelOptions presets;
  drop_replaced(recipe, arguments, "method", presets.method.value, upcycle::methods(), "", notes);
  drop_replaced(recipe, arguments, "router-init", presets.router_init.value, router_init::router_inits(),
                kRouterPrefix, notes);
  return arguments.settings.values(std::move(recipe));
}

Forecast forecast(const Plan& plan, const std::string& output, bool measure) {
  Forecast out{.bytes_per_second = 1e9, .measured = measure};
  if (measure) out.bytes_per_second = measure_write_rate(std::filesystem::absolute(output).parent_path());
  out.seconds = static_cast<double>(plan.file_bytes + plan.source.data_bytes()) / out.bytes_per_second;
  return out;
}

// Says what happens as it happens, or at the end in one object, or nothing.
class Report {
 public:
  explicit Report(const RunFlags& flags) : json_(flags.json), quiet_(flags.quiet) {}

  void add(const char* key, const nlohmann::ordered_json& value, const std::string& text) {
    if (json_)
      all_[key] = value;
    else if (!quiet_)
      fmt::print("{}", text);
  }
  bool is_quiet() const { return quiet_; }
  int end() const {
    if (json_) fmt::print("{}\n", all_.dump(2));
    return kOk;
  }

 private:
  bool json_, quiet_;
  nlohmann::ordered_json all_;
};

int carry_out(const Plan& plan, const std::string& output, RunOptions how, Report& report) {
  std::fflush(stdout);
  how.cancelled = &catch_interrupts();
  const auto start = std::chrono::steady_clock::now();
  Converted converted;
  {
    std::optional<ProgressBar> bar;
    if (!report.is_quiet()) {
      bar.emplace("writing");
      how.progress = [&](auto written, auto total) { bar->update(written, total); };
    }
    converted = convert(plan, output, how);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.add("result", outcome_json(converted, seconds), outcome_text(converted, how, seconds));
  if (!converted.missing.empty()) return report.end();
  const std::string next = next_command(plan, output);
  report.add("next", printable(next, std::string::npos),
             fmt::format("next        {}\n", printable(next, std::string::npos)));
  return report.end();
}

int run(Arguments& arguments) {
  std::vector<std::string> notes;
  Values values = read_values(arguments, notes);
  take_places(arguments, values);
  const ConvertOptions options = parse<ConvertOptions>(take(values, describe<ConvertOptions>()), "convert");
  const RunFlags& flags = options.run;
  require_asked(flags.threads >= 1 && flags.threads <= 4096, "--threads is {}, expected 1 to 4096",
                flags.threads);
  require_asked(flags.dry_run || !flags.measure_disk, "--measure-disk is given without --dry-run");
  require_asked(!flags.json || !flags.quiet, "--json and --quiet: one of the two");
  const RankOf rank = find_rank(flags.ranks, flags.rank);
  ConvertRequest request = request_of(arguments, values, options);
  const Source source = find_source(request.source);
  request.folder = source.folder;
  request.from_hub = source.from_hub;
  if (!arguments.recipe.empty() && arguments.recipe != "-") require_apart(arguments.output, arguments.recipe);
  if (!flags.resume && rank.ranks == 1) check_output(arguments.output, request.folder, request.replace);

  const Plan plan = make_plan(request);
  const RunOptions how = {.threads = static_cast<std::size_t>(flags.threads),
                          .resume = flags.resume,
                          .rank = rank,
                          .reflink = options.output.reflink};
  const bool done = is_done(plan, arguments.output, how);
  Report report(flags);
  if (!notes.empty()) report.add("recipe_notes", notes, "note: " + join(notes, "\nnote: ") + "\n");
  report.add("plan", plan_json(plan, arguments.output), plan_text(plan, arguments.output));
  if (done) {
    report.add("result", {{"complete", true}, {"was_complete", true}},
               "complete    the output is there already, made by the same conversion; nothing was written\n");
    return report.end();
  }
  if (!flags.dry_run) return carry_out(plan, arguments.output, how, report);
  check_convert(plan, arguments.output, how);
  const Forecast time = forecast(plan, arguments.output, flags.measure_disk);
  report.add("forecast", forecast_json(time), forecast_text(time));
  return report.end();
}

// At the end of --help: the options of the method and of the router initialisation that the command line
// names.
std::string chosen_help(const Arguments& arguments) {
  std::string out;
  const auto add = [&](const auto& registry, const char* key, const char* what, const std::string& prefix) {
    const std::string name = arguments.settings.given(key);
    for (const auto& entry : registry) {
      if (entry.name != name) continue;
      out += fmt::format("\nOptions of {} {}:\n", what, name);
      for (const OptionInfo& option : entry.options)
        out += help_line(help_name(option, prefix), help_text(option));
      if (entry.options.empty()) out += "  (none)\n";
    }
  };
  add(upcycle::methods(), "method", "method", "");
  add(router_init::router_inits(), "router-init", "router initialisation", kRouterPrefix);
  if (out.empty())
    out =
        "\nMethods and router initialisations have options of their own:\n"
        "  upmoe methods drop, upmoe router-inits auto, or upmoe convert --method drop --help\n";
  return out;
}

// What is wrong may have been said by the recipe, so it is named.
int run_with_recipe(Arguments& arguments) {
  try {
    return run(arguments);
  } catch (const UsageError& error) {
    const std::string recipe = arguments.recipe == "-" ? "standard input" : printable(arguments.recipe);
    if (recipe.empty() || std::string_view(error.what()).starts_with(recipe)) throw;
    throw UsageError(fmt::format("{}; options were also read from {}", error.what(), recipe));
  }
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
  constexpr const char* kModel = "The model";
  add(describe<ModelOptions>(), kModel);
  app.add_option(
         "--recipe", arguments->recipe,
         "TOML file with any of these options, by the same names; -: standard input; the command line wins")
      ->type_name("FILE")
      ->group(kModel);
  add(describe<OutputOptions>(), "The output");
  add(describe<RunFlags>(), "The run");
  constexpr const char* kHidden = "";  // shown by chosen_help
  add(method_options(), kHidden);
  add(router_options(), kHidden);
  app.footer([arguments] { return chosen_help(*arguments); });
  return [arguments] { return run_with_recipe(*arguments); };
}

}  // namespace upmoe::cli
