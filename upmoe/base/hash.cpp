#include "upmoe/base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace upmoe {

std::uint64_t xxh3(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::uint64_t xxh3(std::string_view text, std::uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

struct Xxh3::State {
  XXH3_state_t* xxh;
};

void Xxh3::Free::operator()(State* state) const {
  XXH3_freeState(state->xxh);
  delete state;
}

Xxh3::Xxh3() : state_(new State{XXH3_createState()}) {
  if (state_->xxh == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(state_->xxh);
}

void Xxh3::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

std::uint64_t Xxh3::digest() const { return XXH3_64bits_digest(state_->xxh); }

std::string hex(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

}  // namespace upmoe
