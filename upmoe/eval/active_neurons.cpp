#include "upmoe/eval/active_neurons.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <functional>

namespace upmoe::eval {
namespace {

// The numbers of those A of `size_F` that are largest, of equals the first.
void choose_largest(std::span<const float> size_F, std::vector<float>& scratch,
                    std::span<std::int32_t> out_A) {
  scratch.assign(size_F.begin(), size_F.end());
  const auto last = scratch.begin() + static_cast<std::ptrdiff_t>(out_A.size()) - 1;
  std::nth_element(scratch.begin(), last, scratch.end(), std::greater<>());
  const float least = *last;
  auto equals = std::count(scratch.begin(), last + 1, least);  // of them, so many are taken
  std::size_t a = 0;
  for (std::size_t f = 0; f < size_F.size() && a < out_A.size(); ++f)
    if (size_F[f] > least || (size_F[f] == least && equals-- > 0)) out_A[a++] = static_cast<std::int32_t>(f);
}

}  // namespace

std::vector<std::int32_t> most_active(const at::Tensor& value_NF, std::int64_t A) {
  const at::Tensor size_NF = value_NF.detach().abs().to(at::kFloat).cpu().contiguous();
  const auto N = size_NF.size(0);
  const auto F = static_cast<std::size_t>(size_NF.size(1)), count = static_cast<std::size_t>(A);
  const float* size = size_NF.const_data_ptr<float>();
  std::vector<std::int32_t> out(static_cast<std::size_t>(N) * count);
  at::parallel_for(0, N, /*grain_size=*/64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> scratch;
    for (auto n = static_cast<std::size_t>(begin); n < static_cast<std::size_t>(end); ++n)
      choose_largest({size + n * F, F}, scratch, std::span(out).subspan(n * count, count));
  });
  return out;
}

at::Tensor cosine_neurons(const model::Ffn& ffn, const at::Tensor& in_NH) {
  const auto along = [&](const model::Linear& linear) {
    const at::Tensor length_F = at::linalg_vector_norm(linear.weight_OI, 2, /*dim=*/at::IntArrayRef{1},
                                                       /*keepdim=*/false, at::kFloat);
    const at::Tensor length_N1 =
        at::linalg_vector_norm(in_NH, 2, /*dim=*/at::IntArrayRef{1}, /*keepdim=*/true, at::kFloat);
    // A row of zeros points nowhere, so it is never active.
    return ops::linear(in_NH, linear.weight_OI).to(at::kFloat) / (length_N1 * length_F).clamp_min(1e-30);
  };
  return ops::swiglu(along(ffn.gate), along(ffn.up));
}

ActiveCounts::ActiveCounts(std::int64_t texts, std::int64_t neurons, bool pairs)
    : neurons_(static_cast<std::size_t>(neurons)),
      active_DF_(static_cast<std::size_t>(texts) * neurons_),
      upper_FF_(pairs ? neurons_ * neurons_ : 0) {}

void ActiveCounts::add(std::int64_t text, const std::vector<std::int32_t>& active_NA, std::int64_t A) {
  const auto count = static_cast<std::size_t>(A);
  std::int64_t* const active_F = active_DF_.data() + static_cast<std::size_t>(text) * neurons_;
  for (std::size_t n = 0; n < active_NA.size(); n += count) {
    const std::span<const std::int32_t> mine = std::span(active_NA).subspan(n, count);
    for (const std::int32_t f : mine) ++active_F[f];
    if (upper_FF_.empty()) continue;
    for (std::size_t a = 0; a < count; ++a) {
      std::int32_t* const row = upper_FF_.data() + static_cast<std::size_t>(mine[a]) * neurons_;
      for (std::size_t b = a; b < count; ++b) ++row[mine[b]];
    }
  }
}

std::vector<std::int32_t> ActiveCounts::together_FF() const {
  std::vector<std::int32_t> out = upper_FF_;
  for (std::size_t i = 0; i < (out.empty() ? 0 : neurons_); ++i)
    for (std::size_t j = 0; j < i; ++j) out[i * neurons_ + j] = out[j * neurons_ + i];
  return out;
}

}  // namespace upmoe::eval
