#include "upmoe/cli_engine/model_options.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <latch>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/model/compute.h"

namespace upmoe::cli {
namespace {

at::ScalarType dtype_of(const std::string& name) {
  return name == "fp32" ? at::kFloat : name == "bf16" ? at::kBFloat16 : at::kHalf;
}

// The C library ends the program when a thread has no memory for the first thread_local object with a
// destructor, which torch has. So a thread takes memory first, which throws std::bad_alloc and stays with it.
void settle_thread() {
  ::operator delete(::operator new(1 << 20));
  static_cast<void>(at::empty({1}));
}

// OpenMP ends the program, in words of its own, when a thread can't be started. So as many are started here
// first, which throws std::system_error; then OpenMP starts its own and keeps them.
void start_threads(int count) {
  std::latch all_are_there(1);
  std::vector<std::jthread> threads;
  try {
    while (std::ssize(threads) < count) threads.emplace_back([&] { all_are_there.wait(); });
  } catch (...) {
    all_are_there.count_down();
    throw;
  }
  all_are_there.count_down();
  threads.clear();
  at::parallel_for(0, count, 1, [](std::int64_t /*begin*/, std::int64_t /*end*/) { settle_thread(); });
}

}  // namespace

Values values_of(const Settings& settings) {
  static const std::map<std::string, std::string> kShort = {
      {"float32", "fp32"}, {"bfloat16", "bf16"}, {"float16", "fp16"}};
  Values out = settings.values();
  for (const char* option : {"dtype", "compute"})
    if (const auto said = out.find(option); said != out.end())
      if (const auto known = kShort.find(said->second); known != kShort.end()) said->second = known->second;
  return out;
}

const char* dtype_text(at::ScalarType dtype) {
  return dtype == at::kFloat ? "fp32" : dtype == at::kBFloat16 ? "bf16" : "fp16";
}

int num_threads(const ModelFlags& flags) {
  constexpr std::int64_t kMost = 4096;
  require_asked(flags.threads >= 0 && flags.threads <= kMost,
                "--threads is {}, expected 1 to {}, or 0 for one a core", flags.threads, kMost);
  // More would do nothing but wait for each other.
  constexpr std::int64_t kMostForACore = 4;
  const std::int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  return static_cast<int>(flags.threads > 0 ? std::min(flags.threads, kMostForACore * cores) : cores);
}

std::vector<model::Model> load_models(const std::vector<std::filesystem::path>& folders,
                                      const ModelFlags& flags, const RouterFlag& router) {
  const bool has_cuda = at::hasCUDA();
  require_asked(flags.device.value != "cuda" || has_cuda, "--device cuda: torch {} sees no such device here",
                UPMOE_TORCH_VERSION);
  const int threads = num_threads(flags);
  if (flags.threads > 0) at::set_num_threads(threads);
  start_threads(std::max(2, at::get_num_threads()));  // for_each_tile() takes two at least
  model::LoadOptions options;
  options.device = has_cuda && flags.device.value != "cpu" ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  if (flags.dtype.value != "auto") options.dtype = dtype_of(flags.dtype.value);
  if (!router.name.empty()) options.router = parse_named_values(router.name);
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

model::Model load_model(const std::filesystem::path& folder, const ModelFlags& flags,
                        const RouterFlag& router) {
  return std::move(load_models({folder}, flags, router).front());
}

}  // namespace upmoe::cli
