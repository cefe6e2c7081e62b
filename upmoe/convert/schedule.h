#pragma once
#include <cstdint>
#include <vector>

#include "upmoe/convert/plan.h"
#include "upmoe/io/block_file.h"

namespace upmoe {

// What is read and written at a time; multiples of a page. No byte of the output depends on it: small ones
// let tests have many of them of a tiny model.
struct Sizes {
  std::size_t block = kBlockBytes;  // of an output file
  std::size_t chunk = kBlockBytes;  // of a source file
  std::size_t most_slots = 72;      // chunks in memory, but for a task that needs more at once
};

// A block of an output file: sizes.block bytes from a multiple of that on; it knows nothing of tensors.
struct Block {
  std::size_t file = 0;
  std::uint64_t at = 0;
  std::size_t bytes = 0;
  // With reflinks: its bytes stand so far in front of it in the file already; 0: they have to be made.
  std::uint64_t repeats = 0;
};

// The part of a tensor that lies in a block.
struct Piece {
  std::size_t tensor;          // of the file
  std::uint64_t begin, bytes;  // within the tensor
  std::size_t at;              // within the block
};
std::vector<Piece> pieces(const Plan& plan, const Block& block);

// Whole rows of a source weight, looked at once for its hash and its statistics.
struct Scan {
  std::size_t weight = 0;
  std::int64_t begin = 0, end = 0;  // rows; a tensor of one dimension is one row
};

// A chunk of a source file (io/file_window.h), read for the tasks that follow.
struct Load {
  std::size_t file;
  std::uint64_t chunk;
  std::uint32_t uses = 0;  // tasks that need it; then its memory is free
};

struct Task {
  bool is_scan = false;
  Scan scan;
  Block block;
  std::vector<std::uint32_t> loads;  // what must be in memory, by number
};

// What is done, in which order, and which chunks of the source are in memory for it: all decided before the
// first byte is read. Tasks that need a chunk again soon find it there; when the slots are not enough, the
// chunk that is needed last is read again later (Belady, "A study of replacement algorithms", 1966).
struct Schedule {
  Sizes sizes;
  std::size_t num_slots = 0;
  // Blocks in the order of the files, but for those of a tied head; the scans of a weight before its first
  // block.
  std::vector<Task> tasks;
  std::vector<Load> loads;  // in the order of their first use; never more alive at once than there are slots
};

// `files`: which files of the output, by number, ascending. `reflink`: blocks that repeat earlier ones are
// not made.
Schedule make_schedule(const Plan& plan, const std::vector<std::size_t>& files, bool reflink = false,
                       const Sizes& sizes = {});

// A run of tensors in a file that are copies of one source tensor, end to end.
struct Copies {
  std::size_t first = 0, count = 0;  // of the file's tensors
};
std::vector<Copies> copies(const Plan& plan, std::size_t file);

// What a method that asks for statistics which its reads() does not announce ends with.
[[noreturn]] void refuse_moments(const Plan& plan, std::int64_t layer, Matrix matrix);

// What a schedule of all files takes of memory, without making one.
struct Demand {
  std::size_t slots = 0;          // what num_slots will be; less with fewer files
  std::uint64_t bookkeeping = 0;  // bytes, at most about
};
Demand demand(const Plan& plan, const Sizes& sizes = {});

}  // namespace upmoe
