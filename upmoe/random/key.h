#pragma once
#include <cstdint>
#include <string_view>

namespace upmoe {

// A key of random draws, not a stream: at() names a child key, so what is drawn depends on names alone,
// not on order and not on threads. Part of the file format, pinned by tests: docs/random.md.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : seed_(seed) {}

  Rng at(std::string_view name) const;
  Rng at(std::uint64_t index) const;

  std::uint64_t seed() const { return seed_; }      // Philox key; the same for all children
  std::uint64_t stream() const { return stream_; }  // upper half of the Philox counter

  bool operator==(const Rng&) const = default;

 private:
  std::uint64_t seed_;
  std::uint64_t stream_ = 0;
};

}  // namespace upmoe
