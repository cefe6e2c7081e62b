// Kernels that lay numbers out for products; part of kernels_body.h.

// A and B, one number of each in turn: the first halves (kHalf 0) or the second.
template <std::size_t kHalf>
UPMOE_INLINE Words in_turn(Words a, Words b) {
  return [&]<std::size_t... kI>(std::index_sequence<kI...>) __attribute__((always_inline)) {
    return __builtin_shufflevector(a, b, (kHalf * kLanes / 2 + kI / 2 + kI % 2 * kLanes)...);
  }
  (std::make_index_sequence<kLanes>());
}

// Shuffling the rows i and i + kLanes/2 into each other log2(kLanes) times transposes a square.
UPMOE_INLINE void transpose_square(const char* from, std::size_t stride, std::uint32_t* to,
                                   std::size_t stride_to) {
  Words row[kLanes], next[kLanes];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kLanes; ++i) __builtin_memcpy(&row[i], from + i * stride, sizeof(Words));
#pragma GCC unroll 4
  for (std::size_t step = 1; step < kLanes; step *= 2) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = in_turn<0>(row[i], row[i + kLanes / 2]);
      next[2 * i + 1] = in_turn<1>(row[i], row[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLanes; ++i) row[i] = next[i];
  }
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kLanes; ++i) __builtin_memcpy(to + i * stride_to, &row[i], sizeof(Words));
}

void transpose(const void* from, std::size_t stride, std::size_t rows, std::size_t columns, std::uint32_t* to,
               std::size_t stride_to) {
  const auto* first = static_cast<const char*>(from);
  const std::size_t whole_rows = rows / kLanes * kLanes, whole_columns = columns / kLanes * kLanes;
  for (std::size_t r = 0; r < whole_rows; r += kLanes)
    for (std::size_t c = 0; c < whole_columns; c += kLanes)
      transpose_square(first + r * stride + 4 * c, stride, to + c * stride_to + r, stride_to);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
      __builtin_memcpy(to + c * stride_to + r, first + r * stride + 4 * c, 4);
}

void interleave(const Bf16* a, const Bf16* b, std::size_t count, std::uint32_t* out) {
  const auto words = [](const Bf16* x, std::size_t n) __attribute__((always_inline)) {
    Shorts v{};
    __builtin_memcpy(&v, x, 2 * n);
    return widened(v);
  };
  in_registers(count, [&](std::size_t i, std::size_t n) {
    const Words both = words(a + i, n) | words(b + i, n) << 16;
    __builtin_memcpy(out + i, &both, 4 * n);
  });
}
