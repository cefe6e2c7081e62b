#include "upmoe/ops/processor.h"

#include <strings.h>

#include <ATen/Version.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "upmoe/base/isa.h"

namespace upmoe::ops {
namespace {

#ifdef __x86_64__
// The values of ONEDNN_MAX_CPU_ISA below AVX512_CORE_BF16. oneDNN takes what it does not know for no limit.
constexpr std::array kLimits = {"SSE41",           "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE",
                                "AVX512_CORE_VNNI"};
constexpr std::ptrdiff_t kAvx2 = 2, kAvx512 = 5, kAvx512Bf16 = 7;

std::ptrdiff_t limit_of_onednn() {
  const char* asked = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (asked == nullptr) asked = std::getenv("DNNL_MAX_CPU_ISA");  // its older name
  if (asked == nullptr) return kAvx512Bf16;
  const auto is_asked = [&](const char* name) { return strcasecmp(name, asked) == 0; };
  return std::ranges::find_if(kLimits, is_asked) - kLimits.begin();
}

// Compilers have no common name for this one.
bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

}  // namespace

Processor processor_of_onednn() {
#ifdef __x86_64__
  static const Processor found = [] {
    __builtin_cpu_init();
    const std::ptrdiff_t limit = limit_of_onednn();
    Processor p{.amd = __builtin_cpu_is("amd") != 0};
    p.avx2 = limit >= kAvx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    p.avx512 = p.avx2 && limit >= kAvx512 && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    p.avx512_bf16 = p.avx512 && limit >= kAvx512Bf16 && has_avx512_bf16();
    return p;
  }();
  Processor p = found;  // only oneDNN knows whether the system lets it use AMX; ATen asks it
  p.amx_bf16 = p.avx512_bf16 && at::native::cpublas::could_pack(at::kBFloat16);
  return p;
#else
  return {};
#endif
}

Processor processor() {
  Processor p = processor_of_onednn();
  const std::string of_aten = at::get_cpu_capability();
  p.avx2 = p.avx2 && of_aten != "DEFAULT" && active_isa() != Isa::scalar;
  p.avx512 = p.avx512 && of_aten == "AVX512" && active_isa() == Isa::avx512;
  p.avx512_bf16 = p.avx512_bf16 && p.avx512;
  p.amx_bf16 = p.amx_bf16 && p.avx512;
  return p;
}

}  // namespace upmoe::ops
