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
          "dtype of the arithmetic; auto: bf16 for bf16 weights where the processor is fast at it (AMX, or "
          "AVX512_BF16 of AMD) or there is a GPU");
    field(device, "device", "where to compute; auto: cuda if there is one");
    field(threads, "threads", "threads to compute with; 0: one a core");
  }
};

}  // namespace upmoe::cli
