#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

inline constexpr std::size_t kBlockBytes = 4u << 20;  // what is read and written at a time
inline constexpr std::size_t kPoolBlocks = 16;        // blocks in memory during a run
inline constexpr std::size_t kBlockAlignment = 4096;  // of buffers, places and sizes past the page cache

// A new file that is written in aligned blocks, past the page cache where the file system allows it, and
// through it without filling it where not. Blocks may be written in any order and from any thread.
class BlockFile {
 public:
  // Creates the file and reserves its space. Throws Error when it exists or the disk is too full.
  BlockFile(const std::filesystem::path& path, std::uint64_t bytes);

  // `block` begins at a multiple of kBlockBytes, in memory at a multiple of kBlockAlignment. The last block
  // of the file may be short; its memory must go on to the next multiple of kBlockAlignment.
  void write(std::uint64_t at, std::span<std::byte> block);

  // Cuts the padding and makes the data durable.
  void finish();

 private:
  std::filesystem::path path_;
  std::uint64_t bytes_;
  FileDescriptor file_;
  bool direct_;
};

}  // namespace upmoe
