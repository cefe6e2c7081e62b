#pragma once
// Inside of convert.cpp. The vector kernels include nothing else of ours: an inline function that
// they emit could be the copy that the linker keeps for processors without their instructions.
#include <cstddef>

namespace upmoe {

struct ConvertKernels {
  void (*widen_bf16)(const void* in, float* out, std::size_t count);
  void (*widen_f16)(const void* in, float* out, std::size_t count);
  void (*narrow_bf16)(const float* in, void* out, std::size_t count);
  void (*narrow_f16)(const float* in, void* out, std::size_t count);
};
extern const ConvertKernels kConvertAvx2, kConvertAvx512;

}  // namespace upmoe
