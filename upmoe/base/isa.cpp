#include "upmoe/base/isa.h"

#ifdef UPMOE_X86_KERNELS
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>

#include "upmoe/base/error.h"

namespace upmoe {
namespace {

#ifdef UPMOE_X86_KERNELS
// __builtin_cpu_supports of clang 16 does not know this one.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> found = {Isa::scalar};
#ifdef UPMOE_X86_KERNELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (avx2) found.push_back(Isa::avx2);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(Isa::avx512);
#endif
  return found;
}

Isa choose() {
  const char* asked = std::getenv("UPMOE_ISA");
  if (asked == nullptr || *asked == '\0') return available_isas().back();
  std::string known;
  for (const Isa isa : available_isas()) {
    if (isa_name(isa) == asked) return isa;
    known += " " + std::string(isa_name(isa));
  }
  throw UsageError(fmt::format("UPMOE_ISA is '{}'; this build on this processor has:{}", asked, known));
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa = choose();
  return isa;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "?";
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void set_active_isa(Isa isa) {
  require(std::ranges::find(available_isas(), isa) != available_isas().end(),
          "instruction set {} is not available here", isa_name(isa));
  active() = isa;
}

}  // namespace upmoe
