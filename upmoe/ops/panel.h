#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "upmoe/ops/tiles.h"

// How the two sides of a product lie for the kernels that multiply them, in words of 32 bits: a word is one
// float32, or two consecutive terms in bf16. T is float or Bf16; K terms, M rows, N columns. Of both sides,
// the numbers of a row or those of a column must lie side by side.
namespace upmoe::ops {

constexpr std::int64_t kPanelColumns = 64, kPanelTerms = 1024;  // at most: it stays in a core's second cache

template <class T>
constexpr std::int64_t kTermsAWord = 4 / sizeof(T);

template <class T>
std::int64_t words_of(std::int64_t terms) {
  return (terms + kTermsAWord<T> - 1) / kTermsAWord<T>;
}

// panel[word][column], kPanelColumns apart; converts what has another dtype. Words beyond those of k are
// zero.
template <class T>
void pack_panel(const at::Tensor& b_KN, Range k, Range n, std::int64_t words, std::uint32_t* panel);

// Asks memory for some of so many parts of what pack_panel will read: short pieces of lines that lie apart,
// which a processor does not see coming.
void fetch_panel(const at::Tensor& b_KN, Range k, Range n, Range part, std::int64_t parts);

// True where the rows of a are of T and lie in words side by side already.
template <class T>
bool rows_are_packed(const at::Tensor& a_MK);
// rows[row][word] of a of T, or of bf16; words beyond those of k are zero.
template <class T>
void pack_rows(const at::Tensor& a_MK, Range m, Range k, std::int64_t words, std::uint32_t* rows);

}  // namespace upmoe::ops
