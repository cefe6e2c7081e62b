#pragma once
#include <cstddef>
#include <functional>
#include <vector>

#include "upmoe/ops/expert_plan.h"
#include "upmoe/ops/tiles.h"

// Where there are kernels for the experts; and how the work is cut for them: blocks of rows of one expert,
// groups of blocks whose numbers are in memory at once, and tiles of a block's rows and some columns, which a
// thread computes. R: rows of a group.
namespace upmoe::ops {

bool have_kernels(const at::Tensor& x, at::TensorList gate, at::TensorList up, at::TensorList down);

struct Block {
  std::size_t expert;
  Range rows;
};

// Blocks that follow each other.
struct Group {
  Range rows;
  std::vector<Block> blocks;  // their rows count from the group's first
};

// Groups of at most kGroupBytes, or of one block. whole: an expert's blocks are in one group.
std::vector<Group> groups_of(const ExpertPlan& plan, std::int64_t bytes_a_row, bool whole);

// out[r] = x[token of the group's row r]; x is contiguous.
at::Tensor gather(const at::Tensor& x_NH, const ExpertPlan& plan, Range rows);

inline at::Tensor part(const at::Tensor& all, std::int64_t dim, Range r) {
  return all.narrow(dim, r.begin, r.size);
}

// f(block, columns) for every tile of [rows of the group, columns].
void for_each_tile_of(const Group& group, std::int64_t columns,
                      const std::function<void(const Block&, Range)>& f);

}  // namespace upmoe::ops
