#pragma once
#include <cstddef>
#include <filesystem>
#include <span>

namespace upmoe {

// A regular file, read-only in memory. Throws Error when it can't be opened or isn't a regular file.
// Spans of it must not outlive it. Safe to read from any thread.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Hints about a range of a mapping: it is needed soon; it is not needed for now. The second takes the range's
// whole pages out of this process's resident memory; reading them again brings them back.
void will_need(std::span<const std::byte> range);
void release(std::span<const std::byte> range);

}  // namespace upmoe
