#pragma once
#include <cstddef>
#include <filesystem>
#include <span>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

struct MappedRange;  // of mapped_file.cpp

// A regular file, read-only in memory. Throws Error when it can't be opened or isn't a regular file.
// Spans of it must not outlive it. Safe to read from any thread.
// Where the file has become shorter since, zeros are read, and require_intact() throws: no SIGBUS.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  const FileIdentity& identity() const { return identity_; }  // when it was mapped

  // To be called after reading and before what was read is relied on. Throws Error, too, when the file at the
  // path is no longer this one, of this size and time.
  void require_intact() const;

  // Its name is about to go, as that of a temporary file: from here on nobody else can change it, and only
  // its size is looked at.
  void forget_name() { has_name_ = false; }

 private:
  std::filesystem::path path_;
  FileIdentity identity_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  MappedRange* range_ = nullptr;
  bool has_name_ = true;
};

// A hint: a range of a mapping is not needed for now. Takes its whole pages out of this process's resident
// memory; reading them again brings them back.
void release(std::span<const std::byte> range);

}  // namespace upmoe
