#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace upmoe {

// XXH3, 64 bits (https://xxhash.com): for keys of random draws and for checksums, not for secrets.
std::uint64_t xxh3(std::span<const std::byte> bytes, std::uint64_t seed = 0);
std::uint64_t xxh3(std::string_view text, std::uint64_t seed = 0);

// The same hash over bytes that come in pieces.
class Xxh3 {
 public:
  Xxh3();
  void update(std::span<const std::byte> bytes);
  std::uint64_t digest() const;

 private:
  struct State;
  struct Free {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, Free> state_;
};

std::string hex(std::uint64_t hash);  // 16 lower-case digits

}  // namespace upmoe
