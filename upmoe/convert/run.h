#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>

#include "upmoe/convert/block_maker.h"
#include "upmoe/convert/journal.h"
#include "upmoe/convert/schedule.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// One of several processes that make an output together: files f with f % ranks == rank are its own.
struct RankOf {
  std::size_t rank = 0, ranks = 1;
};

struct RunOptions {
  std::size_t threads = 1;  // workers; the bytes do not depend on how many
  const std::atomic<bool>* cancelled =
      nullptr;  // looked at for every block; when it is true the run throws Interrupted
  std::function<void(std::uint64_t done, std::uint64_t total)>
      progress;         // bytes; called from one thread at a time
  bool resume = false;  // go on with what an earlier run has left, and leave such when this one is stopped
  RankOf rank;
  bool reflink = false;  // share the extents of what repeats, where the file system can
  Sizes sizes;
};

// Files of the output that a rank makes, by number.
std::vector<std::size_t> files_of(const Plan& plan, const RankOf& rank);

struct RunRecord {
  TensorHashes hashes;
  std::uint64_t bytes_read = 0;               // of the source
  std::uint64_t bytes_kept = 0;               // of the output, that an earlier run had written
  std::uint64_t bytes_written = 0;            // of the output
  std::uint64_t bytes_shared = 0;             // of the output, by reflinks
  std::string reflink_refused;                // why there were none, in the system's words
  std::map<std::size_t, FileIdentity> files;  // that were written, by number: what they are at the end
};

// Carries out a plan: writes its safetensors files into a folder, durably. Memory stays at the block buffers
// and the slots that the source is read into, whatever the size of the model and the number of experts.
// Blocks that the journal knows are kept if they are still what it says.
RunRecord run_plan(const Plan& plan, const std::filesystem::path& folder, const RunOptions& options,
                   Journal& journal);

}  // namespace upmoe
