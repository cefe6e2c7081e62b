#pragma once

namespace upmoe::ops {

// Instructions of this processor that products of matrices and everything beside them may use: as limited by
// ONEDNN_MAX_CPU_ISA (oneDNN's products), ATEN_CPU_CAPABILITY (ATen's operations) and UPMOE_ISA (our
// kernels), each of which limits all of these. All are false where there is no x86.
struct Processor {
  bool amd = false;
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx_bf16 = false;
};
Processor processor();

// The same as oneDNN sees it: of the variables, only its own counts.
Processor processor_of_onednn();

}  // namespace upmoe::ops
