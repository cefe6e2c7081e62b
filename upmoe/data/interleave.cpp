#include "upmoe/data/interleave.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "upmoe/base/error.h"

namespace upmoe {
namespace {

constexpr std::int64_t kMaxPeriod = 65536;

// Shares that add up to kMaxPeriod, by largest remainder.
std::vector<std::int64_t> rounded_shares(std::span<const double> weights, double sum) {
  std::vector<std::int64_t> share;
  std::vector<double> missing;
  for (const double weight : weights) {
    const double exact = weight / sum * kMaxPeriod;
    share.push_back(std::max<std::int64_t>(1, std::llround(std::floor(exact))));
    missing.push_back(exact - double(share.back()));
  }
  for (std::int64_t left = kMaxPeriod - std::accumulate(share.begin(), share.end(), std::int64_t(0));
       left != 0;) {
    const std::int64_t step = left > 0 ? 1 : -1;  // down: where tiny weights were given 1
    const auto most = step > 0 ? std::ranges::max_element(missing) : std::ranges::min_element(missing);
    share[std::size_t(most - missing.begin())] += step;
    *most -= double(step);
    left -= step;
  }
  return share;
}

std::vector<std::int64_t> shares_of(std::span<const double> weights) {
  require_asked(!weights.empty(), "a blend needs at least one source");
  require_asked(weights.size() <= kMaxPeriod / 16, "a blend of {} sources, at most {} are possible",
                weights.size(), kMaxPeriod / 16);
  for (const double weight : weights)
    require_asked(std::isfinite(weight) && weight > 0, "a weight of {} in a blend, expected more than 0",
                  weight);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  require_asked(std::isfinite(sum), "the weights of a blend add up to {}", sum);
  const bool whole = std::ranges::all_of(weights, [](double weight) { return weight == std::floor(weight); });
  std::vector<std::int64_t> share;
  if (whole && sum <= kMaxPeriod)
    for (const double weight : weights) share.push_back(std::llround(weight));
  else
    share = rounded_shares(weights, sum);
  std::int64_t common = 0;
  for (const std::int64_t one : share) common = std::gcd(common, one);
  for (std::int64_t& one : share) one /= common;
  return share;
}

}  // namespace

// Earliest deadline first: entry k of a source with share s of a period P may not come before slot
// floor(k*P/s), and not after ceil((k+1)*P/s) - 1. One entry a slot always meets all of these: Baruah, Cohen,
// Plaxton, Varvel, "Proportionate progress", Algorithmica 15 (1996), with one processor.
Interleave::Interleave(std::span<const double> weights) : share_(shares_of(weights)) {
  const std::int64_t period = std::accumulate(share_.begin(), share_.end(), std::int64_t(0));
  std::vector<std::int64_t> taken(share_.size(), 0);
  const auto deadline = [&](std::size_t i) { return ((taken[i] + 1) * period + share_[i] - 1) / share_[i]; };
  for (std::int64_t slot = 0; slot < period; ++slot) {
    std::size_t first = share_.size();
    for (std::size_t i = 0; i < share_.size(); ++i)
      if (taken[i] * period < (slot + 1) * share_[i] &&
          (first == share_.size() || deadline(i) < deadline(first)))
        first = i;
    one_period_.push_back({first, taken[first]++});
  }
}

Interleave::Entry Interleave::at(std::int64_t entry) const {
  const Entry& one = one_period_[static_cast<std::size_t>(entry % period())];
  return {one.source, entry / period() * share_[one.source] + one.number};
}

}  // namespace upmoe
