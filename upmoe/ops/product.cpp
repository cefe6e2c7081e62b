// 64 columns of b are laid out as a panel, and multiplied with blocks of rows of a by a kernel of oneDNN,
// which ATen makes on demand for the sizes, strides and the processor, and keeps: so sizes that come from the
// number of tokens are brought to a few. Where there is no kernel for bf16, both are laid out as float32.
#include "upmoe/ops/product.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <exception>
#include <new>
#include <set>
#include <vector>

#include "upmoe/ops/kernel_room.h"
#include "upmoe/ops/panel.h"
#include "upmoe/ops/processor.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops {
namespace {

namespace blas = at::native::cpublas;

enum Slot { kPanel = 8, kSums, kPackedRows, kRows };

// Terms of float32 that a kernel sums one after the other, at most, before it adds them to the sums so far:
// the fewer, the nearer to the exact sum; ATen's mm takes up to 192. Those of bf16 have rounding of their
// own.
constexpr std::int64_t kPieceOfFloats = 160;

constexpr std::int64_t kMostRows = 64;  // of a block; smaller ones are powers of two, so that few kernels do
constexpr std::int64_t kPackedBytes = 2 << 20;  // of rows of a that are laid out anew at a time

// Words of so many terms of a that are laid out anew: 16 terms, or a multiple.
template <class T>
std::int64_t packed_words(std::int64_t terms) {
  return words_of<T>(up_to(16, terms));
}

template <class T>
using InOneDnn = std::conditional_t<std::is_same_v<T, float>, float, c10::BFloat16>;

// A panel times a block of rows.
struct Block {
  std::int64_t rows, columns, words, stride_rows, stride_sums;
  bool add;
  auto operator<=>(const Block&) const = default;
};

// ATen keeps the kernels of each thread, one for each kind of block.
template <class T>
void multiply_block(const Block& b, const T* rows, const std::uint32_t* panel, float* sums) {
  using In = InOneDnn<T>;
  const auto multiply = [&] {
    blas::brgemm(b.rows, b.columns, b.words * kTermsAWord<T>, b.stride_rows, kPanelColumns, b.stride_sums,
                 b.add, reinterpret_cast<const In*>(rows), reinterpret_cast<const In*>(panel), sums,
                 /*is_vnni=*/kTermsAWord<T> > 1);
  };
  thread_local std::set<Block> with_kernel;
  if (with_kernel.contains(b)) return multiply();
  with_room_for_a_kernel(multiply);
  with_kernel.insert(b);
}

// oneDNN throws errors of its own where it has no kernel for bf16, on AVX-512 without BF16; ATen c10::Error.
bool has_bf16_kernels() try {
  const std::uint32_t rows[2] = {}, panel[2 * kPanelColumns] = {};
  float sums[kPanelColumns];
  multiply_block<Bf16>({1, kPanelColumns, 2, 4, kPanelColumns, false}, reinterpret_cast<const Bf16*>(rows),
                       panel, sums);
  blas::brgemm_release();
  return true;
} catch (const std::bad_alloc&) {
  throw;
} catch (const std::exception&) {
  return false;
}

// What blocks of numbers of a dtype are multiplied as.
enum class Blocks { bf16, floats, none };

Blocks blocks_of(at::ScalarType dtype) {
  if (!at::globalContext().userEnabledMkldnn()) return Blocks::none;
  if (dtype == at::kBFloat16) {
    static const bool found = has_bf16_kernels();
    if (found) return Blocks::bf16;
  }
  // ATen would take BLAS for want of a kernel, without a word: slow for products as small as these.
  return processor_of_onednn().avx2 ? Blocks::floats : Blocks::none;
}

// Some terms of all sums.
template <class T>
struct Terms {
  const at::Tensor* b_KN;
  Range k;
  std::int64_t words;
  const T* rows;  // of a, at the first of these terms
  std::int64_t stride;
  std::vector<Range> pieces;  // of words
};

template <class T>
std::vector<Range> pieces_of(std::int64_t words) {
  return std::is_same_v<T, float> ? cut(words, kPieceOfFloats) : std::vector<Range>{{0, words}};
}

// The terms of some rows, in pieces that a panel holds. a that does not lie as it should, with as many terms
// as there are tokens, is laid out anew.
template <class T>
void add_terms(const Factors& f, Range m, std::vector<Terms<T>>& out, std::uint32_t*& packed) {
  const bool in_place = rows_are_packed<T>(f.a_MK);
  for (std::int64_t begin = 0; begin < f.a_MK.size(1); begin += kPanelTerms) {
    const Range k{begin, std::min(kPanelTerms, f.a_MK.size(1) - begin)};
    const std::int64_t words = in_place ? words_of<T>(k.size) : packed_words<T>(k.size);
    const Range of_b{begin, std::min(k.size, f.b_KN.size(0) - begin)};
    if (in_place) {
      const T* const rows = data<T>(f.a_MK) + m.begin * f.a_MK.stride(0) + begin;
      out.push_back({&f.b_KN, of_b, words, rows, f.a_MK.stride(0), pieces_of<T>(words)});
    } else {
      pack_rows<T>(f.a_MK, m, k, words, packed);
      out.push_back({&f.b_KN, of_b, words, reinterpret_cast<const T*>(packed),
                     words * 4 / std::int64_t{sizeof(T)}, pieces_of<T>(words)});
      packed += m.size * words;
    }
  }
}

// next: the columns that come after n, if any. What is packed next is fetched while this is multiplied.
template <class T>
void multiply_rows(const std::vector<Terms<T>>& all, std::int64_t M, Range n, Range next,
                   std::uint32_t* panel, float* sums, std::int64_t stride_sums) {
  for (const Terms<T>& terms : all) {
    pack_panel<T>(*terms.b_KN, terms.k, n, terms.words, panel);
    const bool last = &terms == &all.back();
    const Terms<T>& after = last ? all.front() : *(&terms + 1);
    const std::int64_t columns = up_to(16, n.size);  // nobody reads the sums beyond n
    std::int64_t size = kMostRows;
    for (std::int64_t m = 0; m < M; m += size) {
      while (size > M - m) size /= 2;
      fetch_panel(*after.b_KN, after.k, last ? next : n, {m, size}, M);
      for (const Range piece : terms.pieces)
        multiply_block({size, columns, piece.size, terms.stride, stride_sums,
                        /*add=*/piece.begin > 0 || &terms != &all.front()},
                       terms.rows + m * terms.stride + piece.begin * kTermsAWord<T>,
                       panel + piece.begin * kPanelColumns, sums + m * stride_sums);
    }
  }
}

template <class T>
void multiply_in_panels(at::ArrayRef<Factors> factors, const at::Tensor& out_MN) {
  const std::int64_t M = out_MN.size(0), N = out_MN.size(1);
  std::int64_t row_words = 0;  // of a row of all a that are laid out anew
  for (const Factors& f : factors)
    if (!rows_are_packed<T>(f.a_MK)) row_words += packed_words<T>(f.a_MK.size(1));
  const std::int64_t at_once =
      row_words == 0 ? M : std::max(kMostRows, kPackedBytes / 4 / row_words / kMostRows * kMostRows);
  const auto room = [](int slot, std::int64_t words) {
    return static_cast<std::uint32_t*>(scratch(slot, 1, words, at::kFloat).data_ptr());
  };
  std::uint32_t* const panel = room(kPanel, kPanelTerms * kPanelColumns);
  for (const Range m : cut(M, at_once)) {
    std::uint32_t* packed = room(kPackedRows, m.size * row_words);
    std::vector<Terms<T>> terms;
    for (const Factors& f : factors) add_terms(f, m, terms, packed);
    auto* const sums = reinterpret_cast<float*>(room(kSums, m.size * kPanelColumns));
    for (std::int64_t begin = 0; begin < N; begin += kPanelColumns) {
      const Range n{begin, std::min(kPanelColumns, N - begin)};
      const Range next{begin + n.size, std::min(kPanelColumns, N - begin - n.size)};
      with_kernels(out_MN.scalar_type(), [&]<class Out>(const KernelsOf<Out>& k, Out) {
        Out* const out = data<Out>(out_MN) + m.begin * out_MN.stride(0) + n.begin;
        if constexpr (std::is_same_v<Out, float>)
          if (n.size == kPanelColumns)
            return multiply_rows(terms, m.size, n, next, panel, out, out_MN.stride(0));
        multiply_rows(terms, m.size, n, next, panel, sums, kPanelColumns);
        for (std::int64_t r = 0; r < m.size; ++r)
          k.round(sums + r * kPanelColumns, static_cast<std::size_t>(n.size), out + r * out_MN.stride(0));
      });
    }
  }
  blas::brgemm_release();  // of the tile registers of AMX
}

// The same of ATen's operations.
void multiply_composed(at::ArrayRef<Factors> factors, const at::Tensor& out_MN) {
  const at::ScalarType wide = out_MN.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor sum;
  for (const Factors& f : factors) {
    const at::Tensor a = f.a_MK.narrow(1, 0, f.b_KN.size(0)).to(wide), b = f.b_KN.to(wide);
    sum.defined() ? sum.addmm_(a, b) : sum = at::mm(a, b);
  }
  at::Tensor(out_MN).copy_(sum);
}

// With few rows or few terms, using b where it lies is faster than laying it out anew.
bool few_by_rows(const Factors& f) {
  return f.b_KN.stride(1) == 1 && f.b_KN.scalar_type() == f.a_MK.scalar_type() &&
         (f.a_MK.size(0) <= 8 || f.a_MK.size(1) <= 8);
}
bool few_by_columns(const Factors& f, Blocks blocks) {
  if (f.b_KN.stride(0) != 1 || f.a_MK.stride(1) != 1) return false;
  if (f.b_KN.scalar_type() == at::kFloat) return f.a_MK.size(0) <= 16;
  return f.a_MK.size(0) <= (blocks == Blocks::bf16 ? 6 : 24);
}

void multiply_few_by_columns(const Factors& f, const at::Tensor& out_MN) {
  const std::int64_t M = out_MN.size(0), N = out_MN.size(1), K = f.b_KN.size(0);
  const at::Tensor a = scratch(kRows, M, K, at::kFloat), sums = scratch(kSums, M, N, at::kFloat);
  with_kernels(f.a_MK.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t m = 0; m < M; ++m)
      k.widen(data<T>(f.a_MK) + m * f.a_MK.stride(0), K, data<float>(a) + m * K);
  });
  with_kernels(f.b_KN.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    k.dots(data<float>(a), M, data<T>(f.b_KN), f.b_KN.stride(1), N, K, data<float>(sums), N);
  });
  with_kernels(out_MN.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    for (std::int64_t m = 0; m < M; ++m)
      k.round(data<float>(sums) + m * N, N, data<T>(out_MN) + m * out_MN.stride(0));
  });
}

void multiply_few_by_rows(at::ArrayRef<Factors> factors, const at::Tensor& out_MN) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  with_kernels(out_MN.scalar_type(), [&]<class T>(const KernelsOf<T>& k, T) {
    std::vector<PairOf<T>> pairs;
    for (const auto& [a, b] : factors)
      pairs.push_back(
          {data<T>(a), data<T>(b), size(a.stride(0)), size(a.stride(1)), size(b.stride(0)), size(b.size(0))});
    k.multiply(pairs.data(), pairs.size(), size(out_MN.size(0)), size(out_MN.size(1)), data<T>(out_MN),
               size(out_MN.stride(0)));
  });
}

}  // namespace

void sum_of_products(at::ArrayRef<Factors> factors, const at::Tensor& out_MN) {
  const bool no_terms = std::ranges::all_of(factors, [](const Factors& f) { return f.a_MK.size(1) == 0; });
  if (out_MN.numel() == 0 || no_terms) {
    at::Tensor(out_MN).zero_();
    return;
  }
  const at::ScalarType dtype = factors.front().a_MK.scalar_type();
  const auto fits = [&](const Factors& f) {
    const auto side_by_side = [](const at::Tensor& x) { return x.stride(0) == 1 || x.stride(1) == 1; };
    return f.a_MK.scalar_type() == dtype && has_kernels(f.a_MK) && has_kernels(f.b_KN) &&
           side_by_side(f.a_MK) && side_by_side(f.b_KN);
  };
  const bool kernels = has_kernels(out_MN) && out_MN.stride(1) == 1 && std::ranges::all_of(factors, fits);
  if (kernels && out_MN.scalar_type() == dtype && std::ranges::all_of(factors, few_by_rows))
    return multiply_few_by_rows(factors, out_MN);
  const Blocks blocks = blocks_of(dtype);
  if (kernels && factors.size() == 1 && few_by_columns(factors.front(), blocks))
    return multiply_few_by_columns(factors.front(), out_MN);
  if (!kernels || blocks == Blocks::none) return multiply_composed(factors, out_MN);
  blocks == Blocks::bf16 ? multiply_in_panels<Bf16>(factors, out_MN)
                         : multiply_in_panels<float>(factors, out_MN);
}

at::Tensor for_products(const at::Tensor& a_MK) {
  const bool widened =
      a_MK.is_cpu() && a_MK.scalar_type() == at::kBFloat16 && blocks_of(at::kBFloat16) != Blocks::bf16;
  return widened ? a_MK.to(at::kFloat) : a_MK;
}

std::string_view kernels_of_products(at::ScalarType dtype) {
  const Processor p = processor_of_onednn();
  switch (blocks_of(dtype)) {
    case Blocks::bf16:
      return p.amx_bf16 ? "oneDNN AMX BF16" : "oneDNN AVX-512 BF16";
    case Blocks::floats:
      return p.avx512 ? "oneDNN AVX-512" : "oneDNN AVX2";
    case Blocks::none:
      return "ATen";
  }
  return "?";
}

}  // namespace upmoe::ops
