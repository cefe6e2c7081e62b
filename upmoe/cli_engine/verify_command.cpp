#include <CLI/CLI.hpp>
#include <memory>

#include "upmoe/base/error.h"
#include "upmoe/cli/hub.h"
#include "upmoe/cli/settings.h"
#include "upmoe/cli/verify_options.h"
#include "upmoe/cli_engine/commands.h"
#include "upmoe/cli_engine/model_options.h"
#include "upmoe/cli_engine/texts.h"
#include "upmoe/cli_engine/verify_report.h"
#include "upmoe/cli_engine/watched.h"

namespace upmoe::cli {
namespace fs = std::filesystem;
namespace {

struct Arguments {
  std::string moe, against, data;
  Settings settings;
};

// Runs both models on the text.
void run_both(Verified& found, const fs::path& moe_folder, const fs::path& dense_folder,
              const VerifyOptions& options) {
  const std::vector<model::Model> models = load_models({dense_folder, moe_folder}, options.model);
  const model::Model &dense = models[0], &moe = models[1];
  found.compute = dtype_text(moe.compute);
  found.windows = {.context = context_of(dense, options.context, 1024, options.text),
                   .max_tokens = options.max_tokens};
  const std::vector<TokenFile> texts =
      open_texts({found.data}, dense_folder, dense, {options.text.field, options.max_tokens});
  ProgressBar bar("comparing", ProgressBar::Unit::tokens);
  found.comparison = eval::compare(dense, moe, texts.front(), found.windows, watched(bar));
  for (const model::Model& model : models) model::require_intact(model);
}

// A function that is preserved can be seen only where the arithmetic is exact enough.
void hold_exact(Verified& found) {
  if (!found.receipt.promised_exact || !found.comparison || found.compute != "fp32") return;
  const std::optional<double> relative = found.comparison->relative_difference();
  Promise promise{
      "function",
      relative ? fmt::format("logits differ by {:.2g} of the largest, at most {:g}", *relative, eval::kExact)
               : "logits differ where all of the dense model's are zero",
      {}};
  if (!relative || *relative > eval::kExact)
    promise.broken.push_back("the function is not that of the dense model");
  found.receipt.promises.push_back(std::move(promise));
}

int run(const Arguments& arguments) {
  if (arguments.moe.empty() || arguments.against.empty())
    throw UsageError("name both folders: upmoe verify DIR --against DENSE");
  const auto options = parse<VerifyOptions>(values_of(arguments.settings), "'upmoe verify'");
  const auto threads = static_cast<std::size_t>(num_threads(options.model));
  const fs::path moe = find_source(arguments.moe).folder, dense = find_source(arguments.against).folder;
  const Weights of_moe{Folder(moe)}, of_dense{Folder(dense)};  // from the receipt to the end the same files
  Verified found{.moe = arguments.moe,
                 .against = arguments.against,
                 .receipt = make_receipt(moe, dense, threads),
                 .data = arguments.data};
  if (!found.data.empty()) {
    run_both(found, moe, dense, options);
    hold_exact(found);
  }
  for (const Weights* files : {&of_moe, &of_dense}) files->require_intact();
  const std::string text = options.json ? receipt_json(found) : receipt_text(found);
  std::fputs(text.c_str(), stdout);
  return found.receipt.holds() ? kOk : kFailed;
}

}  // namespace

Action verify_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.add_option("DIR", arguments->moe, "folder or hub id of a Mixture of Experts");
  app.add_option("--against", arguments->against,
                 "folder or hub id of the dense checkpoint that the model was made from")
      ->type_name("DIR");
  app.add_option("--data", arguments->data, kVerifyData)->type_name("FILE");
  for (const OptionInfo& option : describe<VerifyOptions>()) arguments->settings.add(app, option, "Options");
  return [arguments] { return run(*arguments); };
}

}  // namespace upmoe::cli
