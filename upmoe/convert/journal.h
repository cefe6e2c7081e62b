#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// What a run has done so far, kept in its partial folder so that a later one can go on (docs/formats.md has
// the grammar). A record says that a block was written and what it must hash to: it is believed only after
// the block was read back, so it does not matter in which order a power cut has let things reach the disk.
struct JournalText {
  std::string head;  // one line of JSON: all that decides the bytes of the output
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> blocks;  // file, block -> XXH3
  std::uint64_t valid_bytes = 0;  // up to the first record that is torn; what follows is not believed
};

// Any text: one that is no journal, or was cut in its head, has an empty one.
JournalText parse_journal(std::string_view text);

class Journal {
 public:
  // Starts a journal, or goes on with the one that is there. Throws Error when that one has another head, or
  // when another process has it open.
  Journal(const std::filesystem::path& path, const std::string& head);

  // The hash that a block had when an earlier run wrote it, or null.
  const std::uint64_t* find(std::uint64_t file, std::uint64_t block) const;
  // Once the block is in its file. From any thread.
  void add(std::uint64_t file, std::uint64_t block, std::uint64_t hash);
  // Whether there is anything to go on with.
  bool is_empty() const { return num_records_ == 0; }

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  JournalText before_;
  std::mutex mutex_;
  std::uint64_t num_records_ = 0;
};

// What a run that wrote the first of two JSON texts did otherwise than the one that writes the second: "used
// --ratio 0.3, not 0.5". Empty when nothing differs.
std::string difference(std::string_view then, std::string_view now);

// Throws Error with the difference when a journal was begun for something else.
void require_same_head(std::string_view then, std::string_view now, const std::filesystem::path& journal);

}  // namespace upmoe
