// The kernels of kernels.h, written with the vector extension of g++ and clang: compiled once for each level,
// with UPMOE_LANES floats to a register and the name UPMOE_KERNELS. Plain enough for any processor.
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "upmoe/ops/kernels.h"

namespace upmoe::ops {
namespace {

constexpr std::size_t kLanes = UPMOE_LANES;
constexpr std::size_t kRows =
    kLanes == 16 ? 4 : 2;  // of x at once in dots: as many as there are registers for
using Floats [[gnu::vector_size(4 * kLanes)]] = float;
using Ints [[gnu::vector_size(4 * kLanes)]] = std::int32_t;
using Words [[gnu::vector_size(4 * kLanes)]] = std::uint32_t;
using Shorts [[gnu::vector_size(2 * kLanes)]] = std::uint16_t;
#define UPMOE_INLINE inline __attribute__((always_inline))

template <class To, class From>
UPMOE_INLINE To bits_of(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

UPMOE_INLINE Floats all(float x) { return Floats{} + x; }
// The order of these lets a NaN in x through.
UPMOE_INLINE Floats at_least(float low, Floats x) { return x < low ? all(low) : x; }
UPMOE_INLINE Floats at_most(float high, Floats x) { return x > high ? all(high) : x; }

UPMOE_INLINE Words widened(Shorts v) {
#ifdef __AVX512F__  // g++ 12 takes five instructions of the other
  return bits_of<Words>(_mm512_cvtepu16_epi32(bits_of<__m256i>(v)));
#else
  return __builtin_convertvector(v, Words);
#endif
}

// The first n of a register; what is beyond is zero. n = kLanes is known when this is compiled.
UPMOE_INLINE Floats load(const float* x, std::size_t n) {
  Floats v{};
  __builtin_memcpy(&v, x, 4 * n);
  return v;
}
UPMOE_INLINE Floats load(const Bf16* x, std::size_t n) {
  Shorts v{};
  __builtin_memcpy(&v, x, 2 * n);
  return bits_of<Floats>(widened(v) << 16);
}
UPMOE_INLINE float one(const float* x) { return *x; }
UPMOE_INLINE float one(const Bf16* x) { return bits_of<float>(std::uint32_t{x->bits} << 16); }
UPMOE_INLINE void store(Floats v, float* x, std::size_t n) { __builtin_memcpy(x, &v, 4 * n); }

// The numbers in bf16, in the upper halves.
UPMOE_INLINE Words to_bf16(Floats v) {
  const Words u = bits_of<Words>(v);
  const auto is_nan = v != v;  // NOLINT(misc-redundant-expression)
  return is_nan ? u | 0x400000 : u + 0x7FFF + (u >> 16 & 1);
}
UPMOE_INLINE void store(Floats v, Bf16* x, std::size_t n) {
  const Shorts s = __builtin_convertvector(to_bf16(v) >> 16, Shorts);
  __builtin_memcpy(x, &s, 2 * n);
}

// As it would be after a store and a load.
template <class T>
UPMOE_INLINE Floats rounded(Floats v) {
  if constexpr (sizeof(T) == 4) return v;
  return bits_of<Floats>(to_bf16(v) & 0xFFFF0000);
}

// A lane adds so many terms, one after the other, at most, before they are added to those so far: the error
// of a long sum comes from the size that it has already.
constexpr std::size_t kPiece = 128;
UPMOE_INLINE std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

// f(i, n) for every n numbers from i on; all but the last n are kLanes.
template <class F>
UPMOE_INLINE void in_registers(std::size_t count, F f) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, kLanes);
  if (i < count) f(i, count - i);
}

// Adds the other half to each half, then quarters, and so on.
template <std::size_t kBy = kLanes / 2>
UPMOE_INLINE float sum_of(Floats v) {
  const auto turned = [&]<std::size_t... kI>(std::index_sequence<kI...>) __attribute__((always_inline)) {
    return __builtin_shufflevector(v, v, (kI + kBy) % kLanes...);
  }
  (std::make_index_sequence<kLanes>());
  if constexpr (kBy == 1) return v[0] + turned[0];
  return sum_of<(kBy > 1 ? kBy / 2 : 1)>(v + turned);
}

// Sum of f(i, n) in pieces of 64 registers; what f gives beyond n is zero.
template <class F>
UPMOE_INLINE float sum_in_pieces(std::size_t count, F f) {
  constexpr std::size_t kMost = 64 * kLanes;
  Floats total{};
  for (std::size_t begin = 0; begin < count; begin += kMost) {
    Floats sum{};
    in_registers(
        least(count - begin, kMost), [&](std::size_t i, std::size_t n)
                                         __attribute__((always_inline)) { sum += f(begin + i, n); });
    total += sum;
  }
  return sum_of(total);
}

// e^x to about 1e-7 of it: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes expf). Beyond -87.3 and 88.3 it
// stays what it is there: 1e-38 and 2e38. NaN stays NaN.
UPMOE_INLINE Floats exp_of(Floats x) {
  const Floats y = at_most(88.3F, at_least(-87.3F, x));
  const Floats magic = all(12582912.0F);  // adding it rounds to a whole number
  const Floats shifted = y * 1.44269504F + magic, n = shifted - magic;
  const Floats r = (y - n * 0.693359375F) + n * 2.12194440e-4F;
  Floats p = all(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r;  // 1 is added last: of numbers as large as the result, only that rounds
  return (p + 1.0F) * bits_of<Floats>((bits_of<Ints>(shifted) + 127) << 23);  // the low bits of shifted are n
}

struct Strides {
  std::size_t x, w, out;
};

// kAdd: to what is in out.
template <class T, std::size_t kR, std::size_t kN, bool kAdd>
UPMOE_INLINE void dots_block(const float* x, const T* w, std::size_t k, const Strides& stride, float* out) {
  Floats sum[kR][kN] = {};
  in_registers(
      k, [&](std::size_t i, std::size_t n) __attribute__((always_inline)) {
        Floats a[kR];
#pragma GCC unroll 4
        for (std::size_t r = 0; r < kR; ++r) a[r] = load(x + r * stride.x + i, n);
#pragma GCC unroll 4
        for (std::size_t c = 0; c < kN; ++c) {
          const Floats b = load(w + c * stride.w + i, n);
#pragma GCC unroll 4
          for (std::size_t r = 0; r < kR; ++r) sum[r][c] += a[r] * b;
        }
      });
  for (std::size_t r = 0; r < kR; ++r)
    for (std::size_t c = 0; c < kN; ++c) {
      float& to = out[r * stride.out + c];
      to = kAdd ? to + sum_of(sum[r][c]) : sum_of(sum[r][c]);
    }
}

template <class T, bool kAdd>
UPMOE_INLINE void dots_of_piece(const float* x, std::size_t rows, const T* w, std::size_t n, std::size_t k,
                                const Strides& stride, float* out) {
  const auto columns = [&]<std::size_t kN>(std::size_t c, std::integral_constant<std::size_t, kN>)
      __attribute__((always_inline)) {
    std::size_t r = 0;
    for (; r + kRows <= rows; r += kRows)
      dots_block<T, kRows, kN, kAdd>(x + r * stride.x, w + c * stride.w, k, stride, out + r * stride.out + c);
    for (; r < rows; ++r)
      dots_block<T, 1, kN, kAdd>(x + r * stride.x, w + c * stride.w, k, stride, out + r * stride.out + c);
  };
  std::size_t c = 0;
  for (; c + 4 <= n; c += 4) columns(c, std::integral_constant<std::size_t, 4>{});
  for (; c < n; ++c) columns(c, std::integral_constant<std::size_t, 1>{});
}

template <class T>
void dots(const float* x, std::size_t rows, const T* w, std::size_t stride_w, std::size_t n, std::size_t k,
          float* out, std::size_t stride_out) {
  constexpr std::size_t kMost = kPiece * kLanes;
  const Strides stride{k, stride_w, stride_out};
  dots_of_piece<T, false>(x, rows, w, n, least(k, kMost), stride, out);
  for (std::size_t i = kMost; i < k; i += kMost)
    dots_of_piece<T, true>(x + i, rows, w + i, n, least(k - i, kMost), stride, out);
}

// kR rows from r on, kC registers from column c on, of which the last holds `last` numbers.
// kLong: of more terms than a piece.
template <class T, std::size_t kR, std::size_t kC, bool kLong>
UPMOE_INLINE void multiply_block(const PairOf<T>* pairs, std::size_t count, std::size_t r, std::size_t c,
                                 std::size_t last, T* out, std::size_t row_out) {
  Floats sum[kR][kC] = {}, total[kR][kC] = {};
  std::size_t left = kPiece;  // until the sum goes to the total
  for (const PairOf<T>* p = pairs; p != pairs + count; ++p)
    for (std::size_t i = 0; i < p->k;) {
      const std::size_t end = kLong ? least(p->k, i + left) : p->k;
      left -= end - i;
      for (; i < end; ++i) {
        Floats b[kC];
#pragma GCC unroll 4
        for (std::size_t j = 0; j < kC; ++j)
          b[j] = load(p->b + i * p->row_b + c + j * kLanes, j + 1 == kC ? last : kLanes);
#pragma GCC unroll 4
        for (std::size_t y = 0; y < kR; ++y) {
          const Floats a = all(one(p->a + (r + y) * p->row_a + i * p->column_a));
#pragma GCC unroll 4
          for (std::size_t j = 0; j < kC; ++j) sum[y][j] += a * b[j];
        }
      }
      if (!kLong || left > 0) continue;
      left = kPiece;
#pragma GCC unroll 4
      for (std::size_t y = 0; y < kR; ++y)
#pragma GCC unroll 4
        for (std::size_t j = 0; j < kC; ++j) {
          total[y][j] += sum[y][j];
          sum[y][j] = Floats{};
        }
    }
#pragma GCC unroll 4
  for (std::size_t y = 0; y < kR; ++y)
#pragma GCC unroll 4
    for (std::size_t j = 0; j < kC; ++j)
      store(kLong ? total[y][j] + sum[y][j] : sum[y][j], out + (r + y) * row_out + c + j * kLanes,
            j + 1 == kC ? last : kLanes);
}

template <class T, bool kLong>
UPMOE_INLINE void multiply_all(const PairOf<T>* pairs, std::size_t count, std::size_t m, std::size_t n,
                               T* out, std::size_t row_out) {
  const auto rows = [&]<std::size_t kC>(std::size_t c, std::size_t last,
                                        std::integral_constant<std::size_t, kC>)
      __attribute__((always_inline)) {
    std::size_t r = 0;
    for (; r + kRows <= m; r += kRows)
      multiply_block<T, kRows, kC, kLong>(pairs, count, r, c, last, out, row_out);
    for (; r < m; ++r) multiply_block<T, 1, kC, kLong>(pairs, count, r, c, last, out, row_out);
  };
  std::size_t c = 0;
  for (; c + 4 * kLanes <= n; c += 4 * kLanes) rows(c, kLanes, std::integral_constant<std::size_t, 4>{});
  in_registers(
      n - c, [&](std::size_t i, std::size_t some) __attribute__((always_inline)) {
        rows(c + i, some, std::integral_constant<std::size_t, 1>{});
      });
}

template <class T>
void multiply(const PairOf<T>* pairs, std::size_t count, std::size_t m, std::size_t n, T* out,
              std::size_t row_out) {
  std::size_t terms = 0;
  for (const PairOf<T>* p = pairs; p != pairs + count; ++p) terms += p->k;
  terms > kPiece ? multiply_all<T, true>(pairs, count, m, n, out, row_out)
                 : multiply_all<T, false>(pairs, count, m, n, out, row_out);
}

template <class T>
void rms_norm(const T* x, const T* weight, std::size_t count, double eps, T* out) {
  const float squares = sum_in_pieces(count, [&](std::size_t i, std::size_t n) {
    const Floats v = load(x + i, n);
    return v * v;
  });
  const float scale = 1 / std::sqrt(squares / static_cast<float>(count) + static_cast<float>(eps));
  in_registers(count, [&](std::size_t i, std::size_t n) {
    store(rounded<T>(load(x + i, n) * scale) * load(weight + i, n), out + i, n);
  });
}

UPMOE_INLINE Floats sigmoid(Floats x) { return 1.0F / (1.0F + exp_of(-x)); }

template <class T>
void swiglu(const T* gate, const T* up, std::size_t count, T* out) {
  in_registers(count, [&](std::size_t i, std::size_t n) {
    const Floats g = load(gate + i, n);
    store(rounded<T>(g / (1.0F + exp_of(-g))) * load(up + i, n), out + i, n);
  });
}

template <class T>
float swiglu_backward(const T* da, const T* gate, const T* up, float weight, std::size_t count, T* dgate,
                      T* dup, T* a) {
  Floats dot{};
  in_registers(count, [&](std::size_t i, std::size_t n) {
    const Floats d = load(da + i, n), g = load(gate + i, n), u = load(up + i, n);
    const Floats s = sigmoid(g), silu = g * s;
    dot += d * silu * u;
    store(d * weight * u * (s + silu * (1.0F - s)), dgate + i, n);
    store(d * weight * silu, dup + i, n);
    if (a != nullptr) store(silu * u * weight, a + i, n);
  });
  return sum_of(dot);
}

template <class T>
void rotate(const T* x, const float* cos, const float* sin, std::size_t half, T* out) {
  in_registers(half, [&](std::size_t i, std::size_t n) {
    const Floats a = load(x + i, n), b = load(x + half + i, n);
    const Floats c = rounded<T>(load(cos + i, n)), s = rounded<T>(load(sin + i, n));
    store(rounded<T>(a * c) - rounded<T>(b * s), out + i, n);
    store(rounded<T>(b * c) + rounded<T>(a * s), out + half + i, n);
  });
}

template <class T>
void add(float weight, const T* x, std::size_t count, float* sum) {
  in_registers(count, [&](std::size_t i, std::size_t n) {
    store(load(sum + i, n) + weight * load(x + i, n), sum + i, n);
  });
}

template <class T>
void round(const float* x, std::size_t count, T* out) {
  in_registers(count, [&](std::size_t i, std::size_t n) { store(load(x + i, n), out + i, n); });
}

template <class T>
void widen(const T* x, std::size_t count, float* out) {
  in_registers(count, [&](std::size_t i, std::size_t n) { store(load(x + i, n), out + i, n); });
}

template <class T>
float max(const T* x, std::size_t count) {
  Floats most = all(-std::numeric_limits<float>::infinity()), zero{};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats v = load(x + i, kLanes);
    most = v > most ? v : most;
    zero += v * 0.0F;  // NaN from the first number on that is not finite
  }
  float out = -std::numeric_limits<float>::infinity(), rest = sum_of(zero);
  for (std::size_t l = 0; l < kLanes; ++l) out = most[l] > out ? most[l] : out;
  for (; i < count; ++i) {
    const float v = load(x + i, 1)[0];
    out = v > out ? v : out;
    rest += v * 0.0F;
  }
  return out + rest;
}

template <class T>
float largest(const T* x, std::size_t count) {
  // Without their signs, bits of numbers are in the order of the numbers; infinity comes next, then NaN.
  Ints most{};
  in_registers(count, [&](std::size_t i, std::size_t n) {
    const Ints v = bits_of<Ints>(load(x + i, n)) & 0x7FFFFFFF;
    most = v > most ? v : most;
  });
  std::int32_t out = 0;
  for (std::size_t l = 0; l < kLanes; ++l) out = most[l] > out ? most[l] : out;
  return bits_of<float>(out);
}

template <class T>
float sum_exp(const T* x, std::size_t count, float offset) {
  Floats sum{};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum += exp_of(load(x + i, kLanes) - offset);
  float out = sum_of(sum);
  for (; i < count; ++i) out += exp_of(load(x + i, 1) - offset)[0];
  return out;
}

template <class T>
void scaled_exp(T* x, std::size_t count, float offset, float scale) {
  in_registers(
      count, [&](std::size_t i, std::size_t n) { store(exp_of(load(x + i, n) - offset) * scale, x + i, n); });
}

template <class T>
void softmax(float* x, std::size_t count, float scale, T* out) {
  const float offset = scale * max(x, count);
  const float sum = sum_in_pieces(count, [&](std::size_t i, std::size_t n) {
    Floats e = exp_of(load(x + i, n) * scale - offset);
    store(e, x + i, n);
    for (std::size_t l = n; l < kLanes; ++l) e[l] = 0;
    return e;
  });
  const float share = 1 / sum;
  in_registers(count, [&](std::size_t i, std::size_t n) { store(load(x + i, n) * share, out + i, n); });
}

#include "upmoe/ops/pack_body.h"

template <class T>
constexpr KernelsOf<T> kOf = {dots<T>,    multiply<T>, rms_norm<T>,   swiglu<T>, swiglu_backward<T>,
                              rotate<T>,  add<T>,      round<T>,      widen<T>,  max<T>,
                              largest<T>, sum_exp<T>,  scaled_exp<T>, softmax<T>};

}  // namespace

const Kernels UPMOE_KERNELS = {kOf<float>, kOf<Bf16>, transpose, interleave};

}  // namespace upmoe::ops
