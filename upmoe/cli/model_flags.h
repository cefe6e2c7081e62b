#pragma once
#include "upmoe/base/options.h"

namespace upmoe::cli {

// How a model is held and computed: options of every verb that runs one.
struct ModelFlags {
  Choice dtype = {"auto", {"auto", "fp32", "bf16", "fp16"}};
  Choice compute = {"auto", {"auto", "bf16", "fp32"}};
  Choice device = {"auto", {"auto", "cpu", "cuda"}};
  std::int64_t threads = 0;
  void visit(auto&& field) {
    field(dtype, "dtype", "dtype of the weights in memory; auto: as stored, without a copy");
    field(compute, "compute",
          "dtype of the arithmetic; auto: bf16 for bf16 weights if the processor is fast at it (AMX, or "
          "AVX512_BF16 of AMD), else fp32; on a GPU that of the weights");
    field(device, "device", "device to compute on; auto: cuda if there is a GPU");
    field(threads, "threads", "threads to compute with, at most four per core; 0: one per core");
  }
};

}  // namespace upmoe::cli
