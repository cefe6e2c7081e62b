#pragma once
#include "upmoe/cli/model_flags.h"
#include "upmoe/cli/router_flag.h"
#include "upmoe/cli/settings.h"
#include "upmoe/model/load.h"

namespace upmoe::cli {

// What the command line says. Dtypes as torch spells them, "float32", become those of ModelFlags.
Values values_of(const Settings& settings);

// Threads to compute with. Throws UsageError when there are too many.
int num_threads(const ModelFlags& flags);

// What the flags mean on this machine, and for the weights in these folders: all models compute in one dtype.
// Sets the number of threads.
std::vector<model::Model> load_models(const std::vector<std::filesystem::path>& folders,
                                      const ModelFlags& flags, const RouterFlag& router = {});
model::Model load_model(const std::filesystem::path& folder, const ModelFlags& flags,
                        const RouterFlag& router = {});

const char* dtype_text(at::ScalarType dtype);  // "fp32", "bf16", "fp16"

}  // namespace upmoe::cli
