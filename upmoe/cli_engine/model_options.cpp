#include "upmoe/cli_engine/model_options.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <thread>

#include "upmoe/base/error.h"
#include "upmoe/model/compute.h"

namespace upmoe::cli {
namespace {

at::ScalarType dtype_of(const std::string& name) {
  return name == "fp32" ? at::kFloat : name == "bf16" ? at::kBFloat16 : at::kHalf;
}

}  // namespace

const char* dtype_text(at::ScalarType dtype) {
  return dtype == at::kFloat ? "fp32" : dtype == at::kBFloat16 ? "bf16" : "fp16";
}

int num_threads(const ModelFlags& flags) {
  constexpr std::int64_t kMost = 4096;
  require_asked(flags.threads >= 0 && flags.threads <= kMost,
                "--threads is {}, expected 1 to {}, or 0 for one a core", flags.threads, kMost);
  return flags.threads > 0 ? static_cast<int>(flags.threads)
                           : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::vector<model::Model> load_models(const std::vector<std::filesystem::path>& folders,
                                      const ModelFlags& flags) {
  const bool has_cuda = at::hasCUDA();
  require_asked(flags.device.value != "cuda" || has_cuda, "--device cuda: torch {} sees no such device here",
                UPMOE_TORCH_VERSION);
  const int threads = num_threads(flags);
  if (flags.threads > 0) at::set_num_threads(threads);
  model::LoadOptions options;
  options.device = has_cuda && flags.device.value != "cpu" ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  if (flags.dtype.value != "auto") options.dtype = dtype_of(flags.dtype.value);
  std::vector<model::Model> models;
  std::vector<at::ScalarType> dtypes;
  for (const std::filesystem::path& folder : folders) {
    models.push_back(model::load(folder, options));
    dtypes.push_back(models.back().embedding_VH.scalar_type());
  }
  const at::ScalarType compute = flags.compute.value == "auto"
                                     ? model::compute_of(dtypes, options.device, ops::processor())
                                     : dtype_of(flags.compute.value);
  for (model::Model& model : models) model.compute = compute;
  return models;
}

model::Model load_model(const std::filesystem::path& folder, const ModelFlags& flags) {
  return std::move(load_models({folder}, flags).front());
}

}  // namespace upmoe::cli
