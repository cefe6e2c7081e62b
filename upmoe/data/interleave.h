#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace upmoe {

// Several sources made into one sequence, by weight: every entry is a pure function of its number. Among the
// first n entries, for any n, each source has its share of n to within 1.
class Interleave {
 public:
  // Weights are finite and positive; whole numbers that add up to 65536 or less count exactly, others to
  // 1/65536 of their sum, and every source at least that much. Throws UsageError.
  explicit Interleave(std::span<const double> weights);

  struct Entry {
    std::size_t source;
    std::int64_t number;  // how many of that source come before
  };
  Entry at(std::int64_t entry) const;

  // The share of each source, in entries of the sequence's period.
  const std::vector<std::int64_t>& shares() const { return share_; }
  std::int64_t period() const { return static_cast<std::int64_t>(one_period_.size()); }

 private:
  std::vector<std::int64_t> share_;
  std::vector<Entry> one_period_;
};

}  // namespace upmoe
