#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

inline constexpr std::size_t kBlockBytes = 4u << 20;  // what is read and written at a time
inline constexpr std::size_t kPoolBlocks = 12;        // blocks in memory during a run
inline constexpr std::size_t kBlockAlignment = 4096;  // of buffers, places and sizes past the page cache

// A file that is written in aligned blocks, past the page cache where the file system allows it, and through
// it without filling it where not. Blocks may be written in any order and from any thread.
class BlockFile {
 public:
  enum class Open { create, resume };
  // Reserves the file's space. Throws Error when the disk is too full and, with `create`, when the file
  // exists; with `resume` what an earlier run has written into it stays. Without `reserve` it only gets its
  // size.
  BlockFile(const std::filesystem::path& path, std::uint64_t bytes, Open how = Open::create,
            bool reserve = true);

  // `block` begins at a multiple of kBlockBytes, in memory at a multiple of kBlockAlignment. The last block
  // of the file may be short; its memory must go on to the next multiple of kBlockAlignment.
  void write(std::uint64_t at, std::span<std::byte> block);

  // Reads such a block back. False when the file is too short for it.
  bool read(std::uint64_t at, std::span<std::byte> block);

  // Lets a range of it share the extents of another, so that it holds the same (FICLONERANGE). All are
  // multiples of kBlockAlignment, and the ranges do not overlap.
  void share(std::uint64_t from, std::uint64_t to, std::uint64_t bytes);

  // Cuts the padding and makes the data durable.
  void finish();
  // Throws when the file is no longer at its path.
  void require_in_place() const;

 private:
  // Whether a call failed since the file system refuses direct I/O after all; `direct`: whether it was such.
  // Then it is left for good, and the call may be tried again.
  bool refuses_direct(bool direct);

  std::filesystem::path path_;
  std::uint64_t bytes_;
  std::atomic<bool> direct_ = true;  // false: through the page cache
  FileDescriptor file_;
};

// Why files in a folder can't share extents, in the system's words; empty: they can. Found out by trying.
std::string why_no_reflinks(const std::filesystem::path& folder);

}  // namespace upmoe
