#pragma once
#include <optional>
#include <string_view>

namespace upmoe {

// The element types of safetensors: DTYPE(enumerator, name in the file, bits). In the order of that
// format, by increasing alignment: a writer sorts its tensors by it.
#define UPMOE_DTYPES(DTYPE)            \
  DTYPE(boolean, "BOOL", 8)            \
  DTYPE(f4, "F4", 4)                   \
  DTYPE(f6_e2m3, "F6_E2M3", 6)         \
  DTYPE(f6_e3m2, "F6_E3M2", 6)         \
  DTYPE(u8, "U8", 8)                   \
  DTYPE(i8, "I8", 8)                   \
  DTYPE(f8_e5m2, "F8_E5M2", 8)         \
  DTYPE(f8_e4m3, "F8_E4M3", 8)         \
  DTYPE(f8_e8m0, "F8_E8M0", 8)         \
  DTYPE(f8_e4m3fnuz, "F8_E4M3FNUZ", 8) \
  DTYPE(f8_e5m2fnuz, "F8_E5M2FNUZ", 8) \
  DTYPE(i16, "I16", 16)                \
  DTYPE(u16, "U16", 16)                \
  DTYPE(f16, "F16", 16)                \
  DTYPE(bf16, "BF16", 16)              \
  DTYPE(i32, "I32", 32)                \
  DTYPE(u32, "U32", 32)                \
  DTYPE(f32, "F32", 32)                \
  DTYPE(c64, "C64", 64)                \
  DTYPE(f64, "F64", 64)                \
  DTYPE(i64, "I64", 64)                \
  DTYPE(u64, "U64", 64)

enum class Dtype {
#define UPMOE_ENUMERATOR(id, name, bits) id,
  UPMOE_DTYPES(UPMOE_ENUMERATOR)
#undef UPMOE_ENUMERATOR
};

std::string_view name(Dtype dtype);  // as in the file: "BF16"
std::optional<Dtype> dtype_from_name(std::string_view name);
int bits(Dtype dtype);              // of one element; less than 8 for some
bool is_float_weight(Dtype dtype);  // F32, BF16, F16: what to_float and from_float know

}  // namespace upmoe
