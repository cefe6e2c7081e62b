#include "upmoe/ops/processor.h"

#include <gtest/gtest.h>

#include "upmoe/base/isa.h"

namespace upmoe::ops {
namespace {

// What is above, nobody has without what is below.
void expect_steps(const Processor& p) {
  EXPECT_LE(p.avx512, p.avx2);
  EXPECT_LE(p.avx512_bf16, p.avx512);
  EXPECT_LE(p.amx_bf16, p.avx512_bf16);
}

TEST(Processor, HasNothingWithoutWhatIsBelowIt) {
  expect_steps(processor_of_onednn());
  expect_steps(processor());
}

TEST(Processor, IsLimitedByTheLevelOfOurKernels) {
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    set_active_isa(isa);
    EXPECT_LE(processor().avx2, isa >= Isa::avx2);
    EXPECT_LE(processor().avx512, isa >= Isa::avx512);
    EXPECT_LE(processor().avx512_bf16, isa >= Isa::avx512);
    expect_steps(processor());
  }
  set_active_isa(before);
}

}  // namespace
}  // namespace upmoe::ops
