#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <utility>

#include "upmoe/base/counted.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/calibrate_options.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/interrupt.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/cli_engine/model_options.h"
#include "upmoe/cli_engine/texts.h"
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
  flags.context = context_of(model, flags.context, 2048, flags.text);
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
  const std::vector<std::string> names = names_of(arguments.data);
  for (std::size_t d = 0; d < names.size(); ++d)
    fmt::print("{:<20} {:>9} tokens\n", printable(names[d]), calibrator.tokens(d));
  fmt::print("\nrouter inputs: {} in each of {}{}\n", shape.samples, counted(shape.layers, "layer"),
             shape.covariance ? ", and their covariance" : "");
  if (shape.experts > 0) {
    fmt::print("experts: the number of tokens that each of the {} in a layer got\n", shape.experts);
  } else {
    fmt::print("neurons: {} of {} count as active for a token, by {}\n", flags.active, shape.neurons,
               flags.active_by.value);
    fmt::print("co-activation: {}\n",
               shape.co_activation ? "yes"
               : pair_bytes(model.config) > kMostPairBytes
                   ? fmt::format("no, because it would take {}; --co-activation on counts it all the same",
                                 human_bytes(pair_bytes(model.config)))
                   : "no");
    fmt::print("importance: {}\n", shape.importance ? "yes" : "no");
  }
  fmt::print("\n{}: {}\n", printable(arguments.output),
             human_bytes(std::filesystem::file_size(arguments.output)));
}

// The output is none of the inputs: neither the checkpoint, nor a text, nor the other half of a token file.
void require_new_place(const Arguments& arguments) {
  require_apart(arguments.output, arguments.folder);
  for (const std::string& data : arguments.data) {
    require_apart(arguments.output, data);
    if (!is_token_file(data)) continue;
    for (const char* end : {".bin", ".idx"})
      for (const std::filesystem::path& half :
           {std::filesystem::path(data + end), std::filesystem::path(data).replace_extension(end)})
        if (std::filesystem::exists(half)) require_apart(arguments.output, half);
  }
}

int run(Arguments arguments) {
  if (arguments.folder.empty() || arguments.data.empty() || arguments.output.empty())
    throw UsageError(
        "name the checkpoint's folder, the texts and the output: upmoe calibrate DIR --data FILE -o FILE");
  const auto asked = parse<CalibrateFlags>(values_of(arguments.settings), "'upmoe calibrate'");
  require_asked(asked.seed >= 0, "seed is {}, expected 0 or more", asked.seed);
  arguments.named = std::exchange(arguments.folder, find_source(arguments.folder).folder.string());
  require_new_place(arguments);
  const model::Model model = load_model(arguments.folder, asked.model);
  const CalibrateFlags flags = resolved(asked, model);
  const std::vector<TokenFile> texts =
      open_texts(arguments.data, arguments.folder, model, {flags.text.field, flags.max_tokens});
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
  add_files(app, "--data", arguments->data, kCalibrateData);
  app.add_option("-o,--output", arguments->output, "safetensors file for the statistics")->type_name("FILE");
  for (const OptionInfo& option : describe<CalibrateFlags>()) arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
