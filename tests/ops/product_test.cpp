#include "upmoe/ops/product.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <limits>

#include "tests/ops/tensors.h"
#include "upmoe/base/isa.h"
#include "upmoe/ops/processor.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::ops {
namespace {

// The same numbers with the other dimension side by side.
at::Tensor turned(const at::Tensor& x) { return x.t().contiguous().t(); }

at::Tensor in_double(const std::vector<Factors>& factors) {
  at::Tensor sum =
      at::zeros({factors[0].a_MK.size(0), factors[0].b_KN.size(1)}, at::TensorOptions(at::kDouble));
  for (const Factors& f : factors) sum += f.a_MK.to(at::kDouble).mm(f.b_KN.to(at::kDouble));
  return sum;
}

// In a larger matrix, so that rows lie apart.
at::Tensor place(std::int64_t M, std::int64_t N, at::ScalarType dtype) {
  return at::empty({M, N + 5}, at::TensorOptions(dtype)).narrow(1, 2, N);
}

void expect_product(const std::vector<Factors>& factors, at::ScalarType out_dtype) {
  const at::Tensor exact = in_double(factors), out = place(exact.size(0), exact.size(1), out_dtype);
  sum_of_products(factors, out);
  expect_near(out.to(at::kDouble), exact, out_dtype == at::kFloat ? 1e-5 : 4e-3);
}

struct Shape {
  std::int64_t M, K, N;
};

TEST(Product, IsThatOfDoublesForEveryLayoutAndDtype) {
  for (const Shape& s : std::vector<Shape>{{8, 300, 150},
                                           {300, 8, 150},
                                           {5, 6, 300},
                                           {1, 1, 1},
                                           {3, 7, 5},
                                           {64, 64, 64},
                                           {65, 127, 79},
                                           {130, 2051, 200},
                                           {17, 1, 129},
                                           {200, 2, 16}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      for (const at::ScalarType b_dtype : {at::kFloat, at::kBFloat16})
        for (const int layout : {0, 1, 2, 3}) {
          SCOPED_TRACE(fmt::format("{} x {} x {}, {} times {}, layout {}", s.M, s.K, s.N,
                                   c10::toString(dtype), c10::toString(b_dtype), layout));
          at::Tensor a = draw({s.M, s.K}, dtype), b = draw({s.K, s.N}, at::kBFloat16).to(b_dtype);
          if (layout & 1) a = turned(a);
          if (layout & 2) b = turned(b);
          expect_product({{a, b}}, dtype);
          expect_product({{a, b}}, at::kFloat);
        }
}

TEST(Product, IsThatOfDoublesWithoutOneDnnToo) {
  at::globalContext().setUserEnabledMkldnn(false);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const at::ScalarType b_dtype : {at::kFloat, at::kBFloat16}) {
      const at::Tensor a = draw({40, 70}, dtype), b = draw({70, 50}, at::kBFloat16).to(b_dtype);
      expect_product({{a, b}}, dtype);
      expect_product({{a, b}, {turned(a), turned(b)}}, at::kFloat);
    }
  at::globalContext().setUserEnabledMkldnn(true);
}

TEST(Product, OfViewsTouchesOnlyThem) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = draw({40, 90}, dtype).narrow(1, 3, 77),
                     b = draw({100, 90}, dtype).narrow(1, 5, 77).t();
    at::Tensor around = at::full({42, 104}, 7, at::TensorOptions(dtype));
    product(a, b, around.narrow(0, 1, 40).narrow(1, 2, 100));
    expect_near(around.narrow(0, 1, 40).narrow(1, 2, 100).to(at::kDouble), in_double({{a, b}}), 4e-3);
    around.narrow(0, 1, 40).narrow(1, 2, 100).fill_(7);
    EXPECT_TRUE(at::equal(around, at::full({42, 104}, 7, at::TensorOptions(dtype))));
  }
}

TEST(Product, SumsSeveralBeforeItRounds) {
  for (const bool with_onednn : {true, false})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      at::globalContext().setUserEnabledMkldnn(with_onednn);
      std::vector<Factors> factors;
      for (const std::int64_t K : {33, 1100, 8})
        factors.push_back({turned(draw({70, K}, dtype)), draw({K, 90}, dtype)});
      expect_product(factors, dtype);
      factors.push_back({-factors[1].a_MK, factors[1].b_KN});
      factors.push_back({-factors[0].a_MK, factors[0].b_KN});
      const at::Tensor out = place(70, 90, dtype), last = in_double({factors[2]});
      sum_of_products(factors, out);  // what is left of sums that were a hundred times as large
      expect_near(out.to(at::kDouble), last, dtype == at::kFloat ? 1e-4 : 4e-3);
    }
  at::globalContext().setUserEnabledMkldnn(true);
}

// Mean distance from the product of doubles, as a share of its mean size. The mean, since the largest of some
// thousand errors is a matter of chance.
double mean_error(const at::Tensor& got, const at::Tensor& exact) {
  return ((got.to(at::kDouble) - exact).pow(2).mean() / exact.pow(2).mean()).sqrt().item<double>();
}

// What may be more by chance, and where a processor has no fma.
constexpr double kChance = 1.15;

// Many short sums instead of a long one. By ATen's mm where torch has MKL, whose sums are of 192 terms at
// most.
TEST(Product, IsAsNearToThatOfDoublesAsTorchs) {
  // Layers of models; few rows and few terms, which have kernels of their own; gradients, whose terms are
  // tokens; attention, whose terms are positions.
  for (const Shape& s : std::vector<Shape>{{32, 576, 192},
                                           {300, 576, 256},
                                           {64, 1536, 128},
                                           {64, 4096, 128},
                                           {40, 14336, 64},
                                           {100, 256, 256},
                                           {100, 200, 150},
                                           {1, 576, 2000},
                                           {4, 1536, 1000},
                                           {8, 14336, 256},
                                           {300, 8, 150},
                                           {576, 333, 256},
                                           {256, 1024, 64}})
    for (const int layout : {0, 1, 2, 3}) {
      at::Tensor a = draw({s.M, s.K}), b = draw({s.K, s.N});
      if (layout & 1) a = turned(a);
      if (layout & 2) b = turned(b);
      const at::Tensor out = place(s.M, s.N, at::kFloat), exact = in_double({{a, b}});
      product(a, b, out);
      EXPECT_LE(mean_error(out, exact), kChance * mean_error(a.mm(b), exact))
          << fmt::format("{} x {} x {}, layout {}", s.M, s.K, s.N, layout);
    }
}

TEST(Product, OfSeveralIsAsNearToThatOfDoublesAsTorchs) {
  for (const std::int64_t rows : {5, 70}) {
    const std::vector<Factors> factors = {{draw({rows, 1536}), draw({1536, 300})},
                                          {draw({rows, 700}), draw({700, 300})}};
    const at::Tensor out = place(rows, 300, at::kFloat), exact = in_double(factors),
                     of_torch = factors[0].a_MK.mm(factors[0].b_KN).addmm(factors[1].a_MK, factors[1].b_KN);
    sum_of_products(factors, out);
    EXPECT_LE(mean_error(out, exact), kChance * mean_error(of_torch, exact)) << rows << " rows";
  }
}

// Which the variables limit: scripts/isa-test runs this under several, and shows what is printed.
TEST(Product, TakesTheKernelsThatTheProcessorHas) {
  const Processor p = processor_of_onednn();
  const std::string_view of_float = kernels_of_products(at::kFloat),
                         of_bf16 = kernels_of_products(at::kBFloat16);
  EXPECT_EQ(of_float, p.avx512 ? "oneDNN AVX-512" : p.avx2 ? "oneDNN AVX2" : "ATen");
  EXPECT_EQ(of_bf16, p.amx_bf16 ? "oneDNN AMX BF16" : p.avx512_bf16 ? "oneDNN AVX-512 BF16" : of_float);
  fmt::print("products of float32 by {}, of bf16 by {}; our kernels: {}\n", of_float, of_bf16,
             isa_name(active_isa()));
}

TEST(Product, OfFewRowsIsTheSumTooOnEveryInstructionSet) {
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    set_active_isa(isa);
    for (const std::int64_t rows : {1, 3, 8})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        expect_product({{draw({rows, 77}, dtype), draw({77, 150}, dtype)},
                        {turned(draw({rows, 40}, dtype)), draw({40, 150}, dtype)}},
                       dtype);
  }
  set_active_isa(before);
}

TEST(Product, LeavesOutZerosThatAHasMoreThanB) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const std::int64_t rows : {5, 70})
      for (const std::int64_t K : {3, 65, 1029}) {
        SCOPED_TRACE(fmt::format("{} rows of {} {}", rows, K, c10::toString(dtype)));
        const at::Tensor a = at::zeros({rows, (K + 63) / 64 * 64}, at::TensorOptions(dtype)),
                         b = draw({K, 100}, dtype), out = place(rows, 100, dtype);
        a.narrow(1, 0, K).copy_(draw({rows, K}, dtype));
        product(a, b, out);
        expect_near(out.to(at::kDouble), in_double({{a.narrow(1, 0, K), b}}), 4e-3);
      }
}

TEST(Product, OfNoTermsIsZero) {
  const at::Tensor out = place(3, 4, at::kFloat);
  product(draw({3, 0}), draw({0, 4}), out);
  EXPECT_TRUE(at::equal(out, at::zeros({3, 4})));
}

TEST(Product, LetsWhatIsNotFiniteThrough) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    at::Tensor a = draw({20, 30}, dtype), out = place(20, 40, dtype);
    a[3][29] = std::numeric_limits<double>::quiet_NaN();
    a[4][0] = std::numeric_limits<double>::infinity();
    product(a, draw({30, 40}, dtype).abs(), out);
    EXPECT_TRUE(out[3].isnan().all().item<bool>());
    EXPECT_TRUE(out[4].isinf().all().item<bool>());
    EXPECT_TRUE(out.narrow(0, 5, 15).isfinite().all().item<bool>());
  }
}

TEST(Product, OfARowDoesNotDependOnTheOtherRowsUnlessTheyAreFew) {
  if (kernels_of_products(at::kFloat) == "ATen") GTEST_SKIP() << "ATen's mm promises nothing of the kind";
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = draw({150, 1500}, dtype), b = turned(draw({1500, 170}, dtype)),
                     all = place(150, 170, dtype);
    product(a, b, all);
    for (const Range m : {Range{0, 25}, Range{5, 100}, Range{120, 30}})
      for (const Range n : {Range{0, 1}, Range{100, 70}}) {
        const at::Tensor some = place(m.size, n.size, dtype);
        product(a.narrow(0, m.begin, m.size), b.narrow(1, n.begin, n.size), some);
        EXPECT_TRUE(at::equal(some, all.narrow(0, m.begin, m.size).narrow(1, n.begin, n.size)));
      }
  }
}

// The layouts, not the sums, are what the levels make.
TEST(Product, HasTheSameBitsOnEveryInstructionSet) {
  const Isa before = active_isa();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const bool turn : {false, true}) {
      const at::Tensor a = turn ? turned(draw({67, 131}, dtype)) : draw({67, 131}, dtype);
      const at::Tensor b = turn ? turned(draw({131, 83}, dtype)) : draw({131, 83}, dtype);
      at::Tensor first;
      for (const Isa isa : available_isas()) {
        set_active_isa(isa);
        const at::Tensor out = at::empty({67, 83}, a.options());
        product(a, b, out);
        if (!first.defined()) first = out;
        EXPECT_TRUE(at::equal(out, first)) << isa_name(isa);
      }
    }
  set_active_isa(before);
}

TEST(Linear, GivesTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const std::int64_t rows : {1, 20, 1100}) {
      const at::Tensor x = draw({rows, 200}, dtype), weight = draw({300, 200}, at::kBFloat16);
      const at::Tensor first = linear(x, weight);
      for (const int n : {1, 2, 3}) {
        at::set_num_threads(n);
        EXPECT_TRUE(at::equal(first, linear(x, weight))) << n << " threads, " << rows << " rows";
      }
      at::set_num_threads(threads);
    }
}

TEST(Cut, GivesPiecesThatFillTheSizeAndAreNoLargerThanAsked) {
  for (std::int64_t size = 0; size < 700; ++size)
    for (const std::int64_t most : {1, 16, 50, 64, 256}) {
      std::int64_t end = 0;
      for (const Range r : cut(size, most)) {
        EXPECT_EQ(r.begin, end);
        EXPECT_GT(r.size, 0);
        EXPECT_LE(r.size, most);
        end += r.size;
      }
      EXPECT_EQ(end, size);
    }
}

}  // namespace
}  // namespace upmoe::ops
