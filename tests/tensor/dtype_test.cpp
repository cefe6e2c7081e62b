#include "upmoe/tensor/dtype.h"

#include <gtest/gtest.h>

namespace upmoe {
namespace {

// The list of safetensors, huggingface/safetensors, in its order.
constexpr std::string_view kNames[] = {"BOOL",    "F4",      "F6_E2M3", "F6_E3M2",     "U8",          "I8",
                                       "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",
                                       "U16",     "F16",     "BF16",    "I32",         "U32",         "F32",
                                       "C64",     "F64",     "I64",     "U64"};

TEST(Dtype, KnowsEveryNameOfSafetensors) {
  int next = 0;
  for (const std::string_view known : kNames) {
    ASSERT_TRUE(dtype_from_name(known).has_value()) << known;
    EXPECT_EQ(name(*dtype_from_name(known)), known);
    EXPECT_EQ(int(*dtype_from_name(known)), next++) << known;
  }
  EXPECT_EQ(int(Dtype::u64) + 1, next);
}

TEST(Dtype, KnowsNoOtherName) {
  for (const std::string_view unknown : {"", "bf16", "BF16 ", "F128", "BFLOAT16"})
    EXPECT_FALSE(dtype_from_name(unknown).has_value()) << unknown;
}

TEST(Dtype, KnowsItsSize) {
  EXPECT_EQ(bits(Dtype::f4), 4);
  EXPECT_EQ(bits(Dtype::f6_e3m2), 6);
  EXPECT_EQ(bits(Dtype::boolean), 8);
  EXPECT_EQ(bits(Dtype::f8_e5m2fnuz), 8);
  EXPECT_EQ(bits(Dtype::bf16), 16);
  EXPECT_EQ(bits(Dtype::f32), 32);
  EXPECT_EQ(bits(Dtype::c64), 64);
  EXPECT_EQ(bits(Dtype::u64), 64);
}

TEST(Dtype, ComputesOnThreeOfThem) {
  int known = 0;
  for (const std::string_view text : kNames) known += is_float_weight(*dtype_from_name(text));
  EXPECT_EQ(known, 3);
  EXPECT_TRUE(is_float_weight(Dtype::f32) && is_float_weight(Dtype::bf16) && is_float_weight(Dtype::f16));
}

}  // namespace
}  // namespace upmoe
