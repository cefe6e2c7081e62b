#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace upmoe {

// A private range of addresses that begins at a multiple of kBlockBytes; the destructor gives it back. With
// memory behind it when `memory` is true, in huge pages where the system has them: a disk takes a few long
// stretches faster than many pages. Otherwise it is only room for something else, and touching it is a fault.
class AddressRange {
 public:
  AddressRange(std::uint64_t bytes, bool memory);
  AddressRange(AddressRange&& other) noexcept
      : all_(std::exchange(other.all_, nullptr)), bytes_(other.bytes_), begin_(other.begin_) {}
  AddressRange& operator=(AddressRange&&) = delete;
  ~AddressRange();

  std::byte* begin() const { return begin_; }

 private:
  void* all_;
  std::uint64_t bytes_;
  std::byte* begin_;
};

}  // namespace upmoe
