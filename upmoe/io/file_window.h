#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "upmoe/io/address_range.h"
#include "upmoe/io/block_file.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// Files that are read as if they were mapped, with what is in memory in our own hands: each file has a range
// of addresses as long as itself, and chunk i of it, chunk_bytes() from i * chunk_bytes() on, can be touched
// from load() to drop(). Chunks share a fixed number of slots of memory. Reads go past the page cache, but
// for what is in it already. A file that has become shorter is an Error, not a signal.
class FileWindow {
 public:
  // `expected`: of each file, what it was when its header was read. A chunk is a multiple of a page.
  FileWindow(const std::vector<std::filesystem::path>& paths, const std::vector<FileIdentity>& expected,
             std::size_t num_slots, std::size_t chunk_bytes = kBlockBytes);
  FileWindow(const FileWindow&) = delete;
  FileWindow& operator=(const FileWindow&) = delete;

  // The whole file's range. Only what is loaded may be touched.
  std::span<const std::byte> bytes(std::size_t file) const {
    return {files_[file].addresses.begin(), files_[file].identity.bytes};
  }

  std::size_t chunk_bytes() const { return chunk_bytes_; }

  // Brings a chunk that is not there into a slot that is free. From any thread, for different chunks and
  // slots.
  void load(std::size_t file, std::uint64_t chunk, std::size_t slot);
  // Takes its memory away.
  void drop(std::size_t file, std::uint64_t chunk);

  // A few bytes, at once and without a slot. From any thread.
  void read(std::size_t file, std::uint64_t at, std::span<std::byte> out) const;

  // Throws when a file is no longer what it was.
  void require_unchanged() const;

 private:
  struct File {
    File(const std::filesystem::path& place, const FileIdentity& expected, std::size_t chunk_bytes);
    std::filesystem::path path;
    FileDescriptor cached, direct;  // through the page cache, and past it (-1 where the file system can't)
    FileIdentity identity;
    AddressRange addresses;
    std::vector<std::size_t> slot_of_chunk;  // of those that are loaded
  };

  std::size_t chunk_bytes_;
  bool moves_;          // whether the system can move pages and leave their addresses to us (Linux 5.7)
  AddressRange slots_;  // whose memory moves to a file's addresses and back; if not, what is loaded is new
  std::vector<File> files_;
};

// Chunks of a file of that many bytes.
constexpr std::uint64_t num_chunks(std::uint64_t bytes, std::size_t chunk_bytes = kBlockBytes) {
  return (bytes + chunk_bytes - 1) / chunk_bytes;
}

}  // namespace upmoe
