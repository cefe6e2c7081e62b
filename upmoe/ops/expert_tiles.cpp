#include "upmoe/ops/expert_tiles.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace upmoe::ops {
namespace {

constexpr std::int64_t kGroupBytes = 32 << 20;                   // which malloc then keeps for the next group
constexpr std::int64_t kBlockBytes = 256 << 20, kLeastRows = 8;  // of a block: the former, but not fewer

// Columns of a tile: the fewer its rows, the more, so that one panel's memory is fetched beside another's
// products.
std::int64_t columns_beside(std::int64_t rows) {
  return std::clamp<std::int64_t>(kTileRows / 2 / rows, 1, 8) * kTileColumns;
}

}  // namespace

bool have_kernels(const at::Tensor& x, at::TensorList gate, at::TensorList up, at::TensorList down) {
  const auto fits = [](const at::Tensor& w) { return has_kernels(w) && w.stride(1) == 1; };
  return has_kernels(x) && std::ranges::all_of(gate, fits) && std::ranges::all_of(up, fits) &&
         std::ranges::all_of(down, fits);
}

std::vector<Group> groups_of(const ExpertPlan& plan, std::int64_t bytes_a_row, bool whole) {
  std::vector<Group> out;
  const std::int64_t rows =
      std::clamp(kBlockBytes / std::max<std::int64_t>(1, bytes_a_row), kLeastRows, kTileRows);
  for (std::size_t e = 0; e + 1 < plan.expert_begin.size(); ++e) {
    const std::int64_t begin = plan.expert_begin[e], all = plan.expert_begin[e + 1] - begin;
    for (const Range part : cut(all, whole ? std::max<std::int64_t>(1, all) : rows)) {
      if (out.empty() || (out.back().rows.size + part.size) * bytes_a_row > kGroupBytes)
        out.push_back({{begin + part.begin, 0}, {}});
      Group& group = out.back();
      for (const Range r : cut(part.size, kTileRows))
        group.blocks.push_back({e, {group.rows.size + r.begin, r.size}});
      group.rows.size += part.size;
    }
  }
  return out;
}

at::Tensor gather(const at::Tensor& x_NH, const ExpertPlan& plan, Range rows) {
  const at::Tensor out = at::empty({rows.size, x_NH.size(1)}, x_NH.options());
  const auto size = static_cast<std::size_t>(x_NH.size(1)) * x_NH.element_size();
  const auto* from = static_cast<const std::byte*>(x_NH.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.data_ptr());
  for_each_row(rows.size, x_NH.size(1), [&](std::int64_t r) {
    const auto token = static_cast<std::size_t>(plan.row_token[static_cast<std::size_t>(rows.begin + r)]);
    std::memcpy(to + static_cast<std::size_t>(r) * size, from + token * size, size);
  });
  return out;
}

void for_each_tile_of(const Group& group, std::int64_t columns,
                      const std::function<void(const Block&, Range)>& f) {
  std::vector<std::pair<const Block*, Range>> tiles;
  for (const Block& block : group.blocks)
    for (const Range r : cut(columns, columns_beside(block.rows.size), kTileColumns))
      tiles.emplace_back(&block, r);
  for_each_tile(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    const auto& [block, range] = tiles[static_cast<std::size_t>(i)];
    f(*block, range);
  });
}

}  // namespace upmoe::ops
