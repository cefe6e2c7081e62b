#include "upmoe/ops/panel.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace upmoe::ops {
namespace {

template <class T>
constexpr at::ScalarType kDtypeOf = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;

template <class T>
const KernelsOf<T>& kernels_of() {
  if constexpr (std::is_same_v<T, float>)
    return kernels().of_float;
  else
    return kernels().of_bf16;
}

template <class T, class From>
void convert(const From* from, std::int64_t count, T* to) {
  if constexpr (std::is_same_v<T, From>)
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
  else if constexpr (std::is_same_v<T, float>)
    kernels_of<From>().widen(from, static_cast<std::size_t>(count), to);
  else
    kernels_of<T>().round(from, static_cast<std::size_t>(count), to);
}

// Rows of numbers of this thread, kept for the next time.
template <class T>
T* buffer(std::int64_t count) {
  thread_local std::vector<T> kept;
  if (kept.size() < static_cast<std::size_t>(count)) kept.resize(static_cast<std::size_t>(count));
  return kept.data();
}

template <class T>
void transpose(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, std::uint32_t* to,
               std::int64_t stride_to) {
  kernels().transpose(from, static_cast<std::size_t>(stride) * sizeof(T), static_cast<std::size_t>(rows),
                      static_cast<std::size_t>(columns), to, static_cast<std::size_t>(stride_to));
}

// Columns of b lie as rows: they are transposed.
template <class T, class From>
void pack_columns(const From* b, std::int64_t stride, Range k, Range n, std::uint32_t* panel) {
  const From* column = b + n.begin * stride + k.begin;
  const std::int64_t count = words_of<T>(k.size), terms = count * 4 / static_cast<std::int64_t>(sizeof(T));
  if constexpr (std::is_same_v<T, From>)
    if (terms == k.size) return transpose(column, stride, n.size, count, panel, kPanelColumns);
  T* const converted = buffer<T>(n.size * terms);
  for (std::int64_t c = 0; c < n.size; ++c, column += stride) {
    convert(column, k.size, converted + c * terms);
    if (terms != k.size) converted[c * terms + k.size] = {};
  }
  transpose(converted, terms, n.size, count, panel, kPanelColumns);
}

// Rows of b lie as rows: they are copied, or of bf16 shuffled into each other.
template <class T, class From>
void pack_terms(const From* b, std::int64_t stride, Range k, Range n, std::uint32_t* panel) {
  const auto row = [&](std::int64_t i) { return b + (k.begin + i) * stride + n.begin; };
  if constexpr (std::is_same_v<T, float>) {
    for (std::int64_t i = 0; i < k.size; ++i)
      convert(row(i), n.size, reinterpret_cast<float*>(panel) + i * kPanelColumns);
  } else {
    Bf16 pair[2][kPanelColumns] = {};
    for (std::int64_t i = 0; i < k.size; i += 2, panel += kPanelColumns) {
      const bool alone = i + 1 == k.size;
      const Bf16 *first = pair[0], *second = pair[1];
      if constexpr (std::is_same_v<From, Bf16>) {
        first = row(i);
        if (!alone) second = row(i + 1);
      } else {
        convert(row(i), n.size, pair[0]);
        if (!alone) convert(row(i + 1), n.size, pair[1]);
      }
      if (alone) std::memset(pair[1], 0, sizeof(pair[1]));
      kernels().interleave(first, second, static_cast<std::size_t>(n.size), panel);
    }
  }
}

// Rows of a lie as columns, `stride` numbers apart.
template <class T, class From>
void transpose_rows(const From* first, std::int64_t stride, std::int64_t M, std::int64_t K,
                    std::uint32_t* rows, std::int64_t words) {
  if constexpr (std::is_same_v<T, From> && std::is_same_v<T, float>)
    return transpose(first, stride, K, M, rows, words);
  // Some words of all rows at a time, word by word; then those as the columns that they are.
  constexpr std::int64_t kWords = 16;  // few enough for the first cache
  auto* const pieces = buffer<std::uint32_t>(kWords * M);
  const std::vector<T> zeros(static_cast<std::size_t>(M));
  for (const Range some : cut(words_of<T>(K), kWords)) {
    for (std::int64_t i = 0; i < some.size; ++i) {
      const std::int64_t term = (some.begin + i) * kTermsAWord<T>;
      const From* const row = first + term * stride;
      if constexpr (std::is_same_v<T, float>)
        convert(row, M, reinterpret_cast<T*>(pieces + i * M));
      else
        kernels().interleave(row, term + 1 < K ? row + stride : zeros.data(), static_cast<std::size_t>(M),
                             pieces + i * M);
    }
    transpose(pieces, M, some.size, M, rows + some.begin, words);
  }
}

bool rows_side_by_side(const at::Tensor& x) { return x.stride(1) == 1 || x.size(1) == 1; }

}  // namespace

template <class T>
void pack_panel(const at::Tensor& b_KN, Range k, Range n, std::int64_t words, std::uint32_t* panel) {
  with_kernels(b_KN.scalar_type(), [&]<class From>(const KernelsOf<From>&, From) {
    rows_side_by_side(b_KN) ? pack_terms<T>(data<From>(b_KN), b_KN.stride(0), k, n, panel)
                            : pack_columns<T>(data<From>(b_KN), b_KN.stride(1), k, n, panel);
  });
  const std::int64_t count = words_of<T>(k.size);
  std::fill(panel + count * kPanelColumns, panel + words * kPanelColumns, 0);
}

void fetch_panel(const at::Tensor& b_KN, Range k, Range n, Range part, std::int64_t parts) {
  const bool by_rows = rows_side_by_side(b_KN);
  const Range lines = by_rows ? k : n, in_line = by_rows ? n : k;
  const auto size = static_cast<std::int64_t>(b_KN.element_size());
  const std::int64_t stride = b_KN.stride(by_rows ? 0 : 1) * size,
                     end = lines.begin + lines.size * (part.begin + part.size) / parts;
  const auto* const first = static_cast<const std::byte*>(b_KN.const_data_ptr()) + in_line.begin * size;
  for (std::int64_t line = lines.begin + lines.size * part.begin / parts; line < end; ++line)
    for (std::int64_t byte = 0; byte < in_line.size * size; byte += 64)
      __builtin_prefetch(first + line * stride + byte, /*rw=*/0, /*locality=*/2);
}

template <class T>
bool rows_are_packed(const at::Tensor& a_MK) {
  return a_MK.scalar_type() == kDtypeOf<T> && rows_side_by_side(a_MK) &&
         words_of<T>(a_MK.size(1)) * 4 == a_MK.size(1) * std::int64_t{sizeof(T)};
}

template <class T>
void pack_rows(const at::Tensor& a_MK, Range m, Range k, std::int64_t words, std::uint32_t* rows) {
  const std::int64_t count = words_of<T>(k.size);
  for (std::int64_t r = 0; r < m.size; ++r)  // from the last word on, which may be half full
    std::fill(rows + r * words + count - 1, rows + (r + 1) * words, 0);
  const auto pack = [&]<class From>(From) {
    const From* first = data<From>(a_MK) + m.begin * a_MK.stride(0) + k.begin * a_MK.stride(1);
    if (!rows_side_by_side(a_MK))
      return transpose_rows<T>(first, a_MK.stride(1), m.size, k.size, rows, words);
    for (std::int64_t r = 0; r < m.size; ++r)
      convert(first + r * a_MK.stride(0), k.size, reinterpret_cast<T*>(rows + r * words));
  };
  a_MK.scalar_type() == kDtypeOf<T> ? pack(T{}) : pack(Bf16{});
}

template void pack_panel<float>(const at::Tensor&, Range, Range, std::int64_t, std::uint32_t*);
template void pack_panel<Bf16>(const at::Tensor&, Range, Range, std::int64_t, std::uint32_t*);
template bool rows_are_packed<float>(const at::Tensor&);
template bool rows_are_packed<Bf16>(const at::Tensor&);
template void pack_rows<float>(const at::Tensor&, Range, Range, std::int64_t, std::uint32_t*);
template void pack_rows<Bf16>(const at::Tensor&, Range, Range, std::int64_t, std::uint32_t*);

}  // namespace upmoe::ops
