#pragma once
#include <string_view>
#include <vector>

namespace upmoe {

// The vector instructions that kernels may use. Every level gives the same bits; `scalar` is the reference.
enum class Isa { scalar, avx2, avx512 };

std::string_view isa_name(Isa isa);

// What this processor runs and this build holds, slowest first; `scalar` is always there.
const std::vector<Isa>& available_isas();

// The level in use: the fastest available one, or what the environment variable UPMOE_ISA names (empty is as
// unset). Throws UsageError when that variable names a level that is unknown or not available here.
Isa active_isa();

// For tests and benchmarks. Not to be called while kernels run.
void set_active_isa(Isa isa);

}  // namespace upmoe
