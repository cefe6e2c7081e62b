#include "upmoe/model/sample.h"

#include <algorithm>
#include <cmath>

#include "upmoe/base/error.h"
#include "upmoe/random/sample.h"

namespace upmoe::model {
namespace {

void normalise(std::vector<Candidate>& some) {
  double sum = 0;
  for (const Candidate& one : some) sum += one.probability;
  for (Candidate& one : some) one.probability /= sum;
}

}  // namespace

void check(const Sampling& sampling) {
  require_asked(sampling.temperature >= 0, "--temperature is {}, expected 0 (the likeliest token) or more",
                sampling.temperature);
  require_asked(sampling.top_k >= 0, "--top-k is {}, expected a positive number, or 0 for all",
                sampling.top_k);
  require_asked(0 < sampling.top_p && sampling.top_p <= 1, "--top-p is {}, expected above 0 and at most 1",
                sampling.top_p);
}

std::vector<Candidate> candidates(std::span<const float> logits_V, const Sampling& sampling) {
  require(!logits_V.empty() && std::ranges::all_of(logits_V, [](float z) { return std::isfinite(z); }),
          "the logits are not finite: the weights or the activations have overflowed");
  const double largest = *std::ranges::max_element(logits_V);
  if (sampling.temperature == 0) return {{std::ranges::max_element(logits_V) - logits_V.begin(), 1.0}};
  // By logit: far from 1 a temperature makes probabilities equal that are not.
  const auto is_likelier = [&](const Candidate& a, const Candidate& b) {
    const float z_a = logits_V[static_cast<std::size_t>(a.token)],
                z_b = logits_V[static_cast<std::size_t>(b.token)];
    return z_a != z_b ? z_a > z_b : a.token < b.token;
  };
  std::vector<Candidate> out;
  for (const float z : logits_V)
    out.push_back({static_cast<std::int64_t>(out.size()),
                   std::exp((static_cast<double>(z) - largest) / sampling.temperature)});
  if (const auto k = static_cast<std::size_t>(sampling.top_k); 0 < k && k < out.size()) {
    std::ranges::nth_element(out, out.begin() + sampling.top_k, is_likelier);
    out.resize(k);
  }
  std::ranges::sort(out, is_likelier);
  normalise(out);
  if (sampling.top_p == 1) return out;
  std::size_t kept = 0;
  for (double sum = 0; kept < out.size() && sum < sampling.top_p; ++kept) sum += out[kept].probability;
  out.resize(kept);
  normalise(out);
  return out;
}

std::int64_t sample(std::span<const float> logits_V, const Sampling& sampling, std::uint64_t position) {
  const std::vector<Candidate> all = candidates(logits_V, sampling);
  const std::uint64_t drawn = below(Rng(sampling.seed).at("generate"), position, std::uint64_t{1} << 53);
  double left = static_cast<double>(drawn) * 0x1p-53;
  for (const Candidate& one : all) {
    left -= one.probability;
    if (left < 0) return one.token;
  }
  return all.back().token;  // of a sum that rounding has left below one
}

}  // namespace upmoe::model
