#pragma once
#include <ATen/core/Tensor.h>

#include <string_view>

// Products of matrices within a tile, by the thread that calls: M rows, N columns, K terms.
namespace upmoe::ops {

struct Factors {
  // Of each, the numbers of a row or those of a column lie side by side. a may have up to 63 columns more
  // than b has rows, of zeros: then products of many sizes are of one.
  at::Tensor a_MK, b_KN;
};

// out = a b + a' b' + ...: sums of float32 in the order of the terms, rounded once to out's dtype. All a have
// one dtype; a b of another is converted to it in passing. Rows of out may lie apart. An element of out does
// not depend on the other columns nor, from 25 rows on, on the other rows: few rows, and few terms, are
// summed by kernels of ours without laying b out anew. Where oneDNN has no kernels for bf16, the same is done
// in float32; where it has none at all, by ATen's mm.
void sum_of_products(at::ArrayRef<Factors> factors, const at::Tensor& out_MN);

inline void product(const at::Tensor& a_MK, const at::Tensor& b_KN, const at::Tensor& out_MN) {
  sum_of_products(Factors{a_MK, b_KN}, out_MN);
}

// a of many products as they take it fastest: bf16 is widened once where it would be for each of them.
at::Tensor for_products(const at::Tensor& a_MK);

// Whose kernels multiply many rows of float32 or bf16 on this processor, for people.
std::string_view kernels_of_products(at::ScalarType dtype);

}  // namespace upmoe::ops
