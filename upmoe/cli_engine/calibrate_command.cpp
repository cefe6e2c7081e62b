#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <utility>

#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/calibrate_options.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/open_tokens.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/cli_engine/model_options.h"
#include "upmoe/cli_engine/watched.h"
#include "upmoe/eval/calibrate.h"
#include "upmoe/format/safetensors_writer.h"
#include "upmoe/io/apart.h"

namespace upmoe::cli {
namespace {

constexpr std::uint64_t kMostPairBytes = std::uint64_t{1} << 30;

struct Arguments {
  std::string folder, output;
  std::string named;  // the folder as the user named it
  std::vector<std::string> data;
  Settings settings;
};

std::vector<TokenFile> open_texts(const Arguments& arguments, std::int64_t vocabulary,
                                  std::int64_t max_tokens) {
  std::vector<TokenFile> out;
  for (const std::string& data : arguments.data) {
    out.push_back(open_tokens(data, arguments.folder, max_tokens));
    out.back().require_ids_below(vocabulary, max_tokens);
  }
  return out;
}

std::uint64_t pair_bytes(const model::ModelConfig& config) {
  const auto F = static_cast<std::uint64_t>(config.llama.intermediate_size);
  return static_cast<std::uint64_t>(config.llama.num_layers) * F * F * 4;
}

// What "auto" comes to.
CalibrateFlags resolved(CalibrateFlags flags, const model::Model& model) {
  const bool dense = !model.config.moe;
  const auto resolve = [](Choice& choice, bool on) {
    if (choice.value == "auto") choice.value = on ? "on" : "off";
  };
  resolve(flags.importance, dense);
  resolve(flags.co_activation, dense && pair_bytes(model.config) <= kMostPairBytes);
  if (flags.context == 0)
    flags.context = std::min<std::int64_t>(2048, model.config.llama.max_position_embeddings);
  flags.model.dtype.value = dtype_text(model.embedding_VH.scalar_type());
  flags.model.compute.value = dtype_text(model.compute);
  return flags;
}

eval::CalibrateOptions engine_options(const CalibrateFlags& flags) {
  return {.context = flags.context,
          .max_tokens = flags.max_tokens,
          .batch_tokens = flags.batch_tokens,
          .samples = flags.samples,
          .active = flags.active,
          .cosine = flags.active_by.value == "cosine",
          .covariance = flags.covariance,
          .co_activation = flags.co_activation.value == "on",
          .importance = flags.importance.value == "on",
          .seed = static_cast<std::uint64_t>(flags.seed)};
}

std::string hash_of(const TokenFile& file, std::int64_t tokens) {
  Xxh3 hash;
  std::vector<std::int32_t> ids(1 << 16);
  for (std::int64_t begin = 0; begin < tokens; begin += static_cast<std::int64_t>(ids.size())) {
    ids.resize(static_cast<std::size_t>(std::min(static_cast<std::int64_t>(ids.size()), tokens - begin)));
    file.read(begin, ids);
    hash.update(std::as_bytes(std::span(ids)));
  }
  return hex(hash.digest());
}

// No clock, host, path, number of threads or device: the same work gives the same record.
CalibrationRecord make_record(const Arguments& arguments, const CalibrateFlags& flags,
                              const model::Model& model, const std::vector<TokenFile>& texts,
                              const eval::Calibrator& calibrator) {
  const Folder folder(arguments.folder);
  CalibrationRecord out;
  const bool local = std::filesystem::exists(arguments.named);  // or a hub id
  out.source =
      printable(local ? std::filesystem::canonical(arguments.folder).filename().string() : arguments.named);
  out.model_type = model.config.llama.model_type;
  out.config_xxh3 = hex(xxh3(folder.config()));
  out.experts = calibrator.shape().experts;
  const Weights weights(folder);
  for (const auto& [name, weight] : weights.entries()) out.source_xxh3[name] = hex(xxh3(weight.data()));
  weights.require_intact();
  for (const OptionInfo& option : describe(flags)) out.options[option.name] = option.preset;
  for (const char* not_its_business : {"threads", "device", "replace"}) out.options.erase(not_its_business);
  for (std::size_t d = 0; d < texts.size(); ++d)
    out.texts.push_back({printable(std::filesystem::path(arguments.data[d]).stem().string()),
                         hash_of(texts[d], calibrator.tokens(d))});
  return out;
}

void print(const Arguments& arguments, const CalibrateFlags& flags, const eval::Calibrator& calibrator,
           const model::Model& model) {
  const CalibrationShape& shape = calibrator.shape();
  fmt::print("{}\n", printable(arguments.named));
  fmt::print("weights {} on {}, arithmetic {}; windows of {} tokens\n\n", flags.model.dtype.value,
             model.device.str(), flags.model.compute.value, flags.context);
  for (std::size_t d = 0; d < arguments.data.size(); ++d)
    fmt::print("{:<20} {:>9} tokens\n",
               printable(std::filesystem::path(arguments.data[d]).stem().string(), 20), calibrator.tokens(d));
  fmt::print("\nrouter inputs: {} of each of {} layers{}\n", shape.samples, shape.layers,
             shape.covariance ? ", and their covariance" : "");
  if (shape.experts > 0) {
    fmt::print("experts: how many tokens each of the {} of a layer got\n", shape.experts);
  } else {
    fmt::print("neurons: {} of {} a token count as active, by {}\n", flags.active, shape.neurons,
               flags.active_by.value);
    fmt::print("co-activation: {}\n",
               shape.co_activation ? "yes"
               : pair_bytes(model.config) > kMostPairBytes
                   ? fmt::format("no; it would take {}, --co-activation on counts it all the same",
                                 human_bytes(pair_bytes(model.config)))
                   : "no");
    fmt::print("importance: {}\n", shape.importance ? "yes" : "no");
  }
  fmt::print("\n{}: {}\n", printable(arguments.output),
             human_bytes(std::filesystem::file_size(arguments.output)));
}

// The output is none of the inputs: neither the checkpoint, nor a text, nor the other half of a token file.
void require_new_place(const Arguments& arguments) {
  const auto apart = [&](const std::filesystem::path& input) {
    for (const char* end : {"", kPartialEnd}) require_apart(arguments.output + end, input);
  };
  apart(arguments.folder);
  for (const std::string& data : arguments.data) {
    apart(data);
    for (const char* end : {".bin", ".idx"}) {
      apart(data + end);
      apart(std::filesystem::path(data).replace_extension(end));
    }
  }
}

int run(Arguments arguments) {
  if (arguments.folder.empty() || arguments.data.empty() || arguments.output.empty())
    throw UsageError(
        "name the checkpoint's folder, the texts and the output: upmoe calibrate DIR --data FILE... -o FILE");
  const auto asked = parse<CalibrateFlags>(arguments.settings.values({}, {}), "'upmoe calibrate'");
  require_asked(asked.seed >= 0, "seed is {}, expected 0 or more", asked.seed);
  arguments.named = std::exchange(arguments.folder, find_source(arguments.folder).folder.string());
  require_new_place(arguments);
  const model::Model model = load_model(arguments.folder, asked.model);
  const CalibrateFlags flags = resolved(asked, model);
  const std::vector<TokenFile> texts = open_texts(arguments, model.config.llama.vocab_size, flags.max_tokens);
  eval::Calibrator calibrator(model, texts, engine_options(flags));
  const std::vector<std::pair<std::string, std::string>> metadata = {
      {kCalibrationKey, calibration_record_text(make_record(arguments, flags, model, texts, calibrator))}};
  const std::atomic<bool>& interrupted = catch_interrupts();
  SafetensorsWriter out(arguments.output, calibration_layout(calibrator.shape()), metadata, flags.replace);
  {
    ProgressBar bar("calibrating", ProgressBar::Unit::tokens);
    calibrator.run([&](std::int64_t done, std::int64_t total) {
      if (interrupted) throw Interrupted();
      watched(bar)(done, total);
    });
  }
  model::require_intact(model);
  calibrator.write(out);
  if (interrupted) throw Interrupted();
  out.commit();
  print(arguments, flags, calibrator, model);
  return kOk;
}

}  // namespace

Action calibrate_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->folder, "folder or hub id of a dense Llama or Mistral, or of any target");
  app.add_option("--data", arguments->data,
                 "text, JSONL or token file, or a folder of texts; one domain each")
      ->type_name("FILE");
  app.add_option("-o,--output", arguments->output, "the statistics, as safetensors")->type_name("FILE");
  for (const OptionInfo& option : describe<CalibrateFlags>()) arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
