#include "upmoe/model/compute.h"

#include <gtest/gtest.h>

namespace upmoe::model {
namespace {

using ops::Processor;

constexpr auto kFp32 = at::kFloat, kBf16 = at::kBFloat16, kFp16 = at::kHalf;
constexpr Processor kNothing{}, kAvx2{.avx2 = true}, kAmdAvx512{.amd = true, .avx2 = true, .avx512 = true},
    kZen4{.amd = true, .avx2 = true, .avx512 = true, .avx512_bf16 = true},
    kCooperLake{.avx2 = true, .avx512 = true, .avx512_bf16 = true},
    kSapphireRapids{.avx2 = true, .avx512 = true, .avx512_bf16 = true, .amx_bf16 = true};

TEST(Compute, FollowsFromTheProcessorAndTheWeightsAlone) {
  struct Row {
    const char* what;
    std::vector<at::ScalarType> weights;
    at::DeviceType device;
    Processor processor;
    at::ScalarType compute;
  };
  const std::vector<Row> rows = {
      {"AMD's bf16", {kBf16}, at::kCPU, kZen4, kBf16},
      {"AMX", {kBf16}, at::kCPU, kSapphireRapids, kBf16},
      {"Intel's bf16 without AMX", {kBf16}, at::kCPU, kCooperLake, kFp32},
      {"AVX-512 of AMD without bf16", {kBf16}, at::kCPU, kAmdAvx512, kFp32},
      {"AVX2", {kBf16}, at::kCPU, kAvx2, kFp32},
      {"no x86", {kBf16}, at::kCPU, kNothing, kFp32},
      {"float32 weights", {kFp32}, at::kCPU, kZen4, kFp32},
      {"half weights", {kFp16}, at::kCPU, kSapphireRapids, kFp32},
      {"two models alike", {kBf16, kBf16}, at::kCPU, kZen4, kBf16},
      {"two models that differ", {kBf16, kFp32}, at::kCPU, kZen4, kFp32},
      {"two 16-bit models that differ", {kFp16, kBf16}, at::kCPU, kZen4, kFp32},
      {"a GPU", {kBf16}, at::kCUDA, kNothing, kBf16},
      {"half on a GPU", {kFp16}, at::kCUDA, kNothing, kFp16},
      {"float32 on a GPU", {kFp32}, at::kCUDA, kNothing, kFp32},
      {"two that differ on a GPU", {kBf16, kFp32}, at::kCUDA, kNothing, kFp32},
  };
  for (const Row& row : rows)
    EXPECT_EQ(compute_of(row.weights, row.device, row.processor), row.compute) << row.what;
}

}  // namespace
}  // namespace upmoe::model
