#include "upmoe/tensor/dtype.h"

#include <array>

namespace upmoe {
namespace {

struct Row {
  Dtype dtype;
  std::string_view name;
  int bits;
};

constexpr Row kTable[] = {
#define UPMOE_ROW(id, name, bits) {Dtype::id, name, bits},
    UPMOE_DTYPES(UPMOE_ROW)
#undef UPMOE_ROW
};

}  // namespace

std::string_view name(Dtype dtype) { return kTable[int(dtype)].name; }

std::optional<Dtype> dtype_from_name(std::string_view name) {
  for (const Row& row : kTable)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

int bits(Dtype dtype) { return kTable[int(dtype)].bits; }

bool is_float_weight(Dtype dtype) {
  return dtype == Dtype::f32 || dtype == Dtype::bf16 || dtype == Dtype::f16;
}

}  // namespace upmoe
