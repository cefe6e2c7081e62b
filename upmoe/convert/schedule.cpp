#include "upmoe/convert/schedule.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/io/block_file.h"
#include "upmoe/io/file_window.h"

namespace upmoe {
namespace {

constexpr std::size_t kAheadSlots = 8, kMostSlots = 72;
constexpr std::size_t kScanLead = 4;  // blocks between the last scan of a weight and the first that needs it

using Chunk = std::pair<std::size_t, std::uint64_t>;  // file, number

struct Rows {
  std::int64_t count;
  std::uint64_t bytes;  // of one
};
Rows rows_of(const DenseModel::Weight& weight) {
  const TensorInfo& info = *weight.stored.info;
  const std::int64_t count = info.shape.size() > 1 ? info.shape[0] : 1;
  return {count, info.bytes() / static_cast<std::uint64_t>(count)};
}

bool reads_source(const Draft& draft) {
  return !std::holds_alternative<Draw>(draft) && !std::holds_alternative<Constant>(draft);
}

class Planner {
 public:
  Planner(const Plan& plan, const std::vector<std::size_t>& files, bool reflink)
      : plan_(plan), reads_(plan.method->reads()) {
    out_.num_slots = num_slots(plan);
    for (const std::size_t f : files)
      for (std::uint64_t at = 0; at < plan.files[f].bytes; at += kBlockBytes)
        blocks_.push_back(
            {f, at,
             static_cast<std::size_t>(std::min<std::uint64_t>(kBlockBytes, plan.files[f].bytes - at))});
    for (const std::size_t f : files)
      for (const Copies& run : copies(plan, f)) {
        if (reflink) mark_repeats(f, run);
        if (plan.files[f].tensors[run.first].origin.kind == Origin::Kind::dense) interleave(f, run);
      }
  }

  Schedule operator()() {
    place_scans();
    for (std::size_t b = 0; b <= blocks_.size(); ++b) {
      for (const Scan& scan : scans_before_[b]) add_scan(scan);
      if (b < blocks_.size()) add_block(blocks_[b]);
    }
    assign_loads();
    return std::move(out_);
  }

 private:
  // In n equal tensors of S bytes from A on, what stands at p stands at p - k S as well. Blocks may share
  // their extents if k S is whole pages, and at least a block, so that the two do not overlap.
  void mark_repeats(std::size_t f, const Copies& run) {
    const std::uint64_t begin = begin_of(f, run), size = plan_.files[f].tensors[run.first].info.bytes();
    std::uint64_t shift = std::lcm(size, kBlockAlignment);
    shift *= (kBlockBytes + shift - 1) / shift;
    for (Block& block : blocks_)
      if (block.file == f && block.bytes == kBlockBytes && block.at >= begin + shift &&
          block.at + block.bytes <= begin + run.count * size)
        block.repeats = shift;
  }

  // An embedding and the head that was tied to it: their blocks take turns, so that a chunk is read once for
  // both.
  void interleave(std::size_t f, const Copies& run) {
    const std::uint64_t begin = begin_of(f, run), size = plan_.files[f].tensors[run.first].info.bytes(),
                        end = begin + run.count * size;
    const auto is_in = [&](const Block& block) {
      return block.file == f && block.at < end && block.at + block.bytes > begin;
    };
    // How far into the source the block goes; a block in which one tensor ends goes to its end.
    const auto reach = [&](const Block& block) {
      const std::uint64_t from = std::max(block.at, begin) - begin,
                          to = std::min(block.at + block.bytes, end) - begin;
      return from / size != (to - 1) / size ? size : (to - 1) % size + 1;
    };
    const auto first = std::ranges::find_if(blocks_, is_in);
    const auto last = std::find_if_not(first, blocks_.end(), is_in);
    std::stable_sort(first, last, [&](const Block& a, const Block& b) { return reach(a) < reach(b); });
  }

  // Place of a run's first tensor in its file.
  std::uint64_t begin_of(std::size_t f, const Copies& run) const {
    const PlannedFile& file = plan_.files[f];
    return file.header.size() + file.tensors[run.first].info.begin;
  }

  // ---- tasks ----

  // What is copied whole has the hash of its copy; every other weight that is read is scanned.
  bool wants_scan(const Origin& origin) const {
    if (origin.kind == Origin::Kind::expert) return reads_.weights;
    if (origin.kind == Origin::Kind::router) return false;
    const Draft draft = dense_draft(origin.weight);
    return reads_source(draft) && !std::holds_alternative<Copy>(draft);
  }

  Draft dense_draft(std::size_t w) const {
    const DenseWeight& is = plan_.source.weights()[w].is;
    return plan_.method->weight(is, plan_.source.config(), weight_key(plan_, is));
  }

  void place_scans() {
    scans_before_.resize(blocks_.size() + 1);
    std::set<std::size_t> seen;
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      for (const Piece& piece : pieces(plan_, blocks_[b])) {
        const Origin& origin = plan_.files[blocks_[b].file].tensors[piece.tensor].origin;
        if (!wants_scan(origin) || !seen.insert(origin.weight).second) continue;
        const std::vector<Scan> scans = scans_of(origin.weight);
        for (std::size_t i = 0; i < scans.size(); ++i) {
          const std::size_t before = kScanLead + scans.size() - i;
          scans_before_[b - std::min(b, before)].push_back(scans[i]);
        }
      }
  }

  std::vector<Scan> scans_of(std::size_t w) const {
    const Rows rows = rows_of(plan_.source.weights()[w]);
    constexpr std::int64_t kGrid = NeuronMomentsBuilder::kRowStep;
    const auto fitting = static_cast<std::int64_t>(kBlockBytes / std::max<std::uint64_t>(rows.bytes, 1));
    const std::int64_t step = std::max<std::int64_t>(fitting / kGrid, 1) * kGrid;
    std::vector<Scan> out;
    for (std::int64_t begin = 0; begin < rows.count; begin += step)
      out.push_back({w, begin, std::min(begin + step, rows.count)});
    return out;
  }

  void add_scan(const Scan& scan) {
    Task& task = out_.tasks.emplace_back();
    task.is_scan = true;
    task.scan = scan;
    const Rows rows = rows_of(plan_.source.weights()[scan.weight]);
    std::set<Chunk> chunks;
    add_range(scan.weight, static_cast<std::uint64_t>(scan.begin) * rows.bytes,
              static_cast<std::uint64_t>(scan.end) * rows.bytes, chunks);
    needs_.emplace_back(chunks.begin(), chunks.end());
  }

  void add_block(const Block& block) {
    out_.tasks.emplace_back().block = block;
    std::set<Chunk> chunks;
    for (const Piece& piece : block.repeats != 0 ? std::vector<Piece>() : pieces(plan_, block)) {
      const PlannedTensor& tensor = plan_.files[block.file].tensors[piece.tensor];
      const Origin& origin = tensor.origin;
      // Of its norm a router needs the length only, which is read beside the window: all routers are in one
      // block.
      if (origin.kind == Origin::Kind::router) continue;
      if (origin.kind == Origin::Kind::expert ? reads_.weights : reads_source(dense_draft(origin.weight)))
        add_needed(tensor, piece, chunks);
    }
    needs_.emplace_back(chunks.begin(), chunks.end());
  }

  // The source of a piece: the same bytes where the shapes are the same. An expert of another size is made of
  // any neurons: all rows of gate and up, but of down (whose neurons are columns) the same rows.
  void add_needed(const PlannedTensor& tensor, const Piece& piece, std::set<Chunk>& chunks) const {
    const std::size_t w = tensor.origin.weight;
    const DenseModel::Weight& weight = plan_.source.weights()[w];
    const Rows dense = rows_of(weight);
    if (tensor.info.shape == weight.stored.info->shape) {
      add_range(w, piece.begin, piece.begin + piece.bytes, chunks);
    } else if (weight.is.matrix == Matrix::down) {
      const std::uint64_t row = tensor.info.bytes() / static_cast<std::uint64_t>(tensor.info.shape[0]);
      add_range(w, piece.begin / row * dense.bytes, (piece.begin + piece.bytes + row - 1) / row * dense.bytes,
                chunks);
    } else {
      add_range(w, 0, weight.stored.info->bytes(), chunks);
    }
  }

  void add_range(std::size_t w, std::uint64_t begin, std::uint64_t end, std::set<Chunk>& chunks) const {
    const Weights::Entry& stored = plan_.source.weights()[w].stored;
    const std::uint64_t data = stored.file->data_begin(*stored.info);
    for (std::uint64_t chunk = (data + begin) / kBlockBytes; chunk * kBlockBytes < data + end; ++chunk)
      chunks.emplace(plan_.source.files().file_number(stored), chunk);
  }

  // ---- loads ----

  void assign_loads() {
    std::map<Chunk, std::vector<std::uint32_t>> users;  // tasks that need a chunk, in reverse order
    for (std::size_t t = needs_.size(); t-- > 0;) {
      out_.num_slots = std::max(out_.num_slots, needs_[t].size() + 2);
      for (const Chunk& chunk : needs_[t]) users[chunk].push_back(static_cast<std::uint32_t>(t));
    }
    std::map<Chunk, std::uint32_t> alive;               // -> its load
    std::set<std::pair<std::uint32_t, Chunk>> by_next;  // those alive, by the task that needs them next
    for (std::size_t t = 0; t < needs_.size(); ++t) {
      for (const Chunk& chunk : needs_[t]) {
        by_next.erase({static_cast<std::uint32_t>(t), chunk});
        users[chunk].pop_back();
        const auto [it, is_new] = alive.emplace(chunk, static_cast<std::uint32_t>(out_.loads.size()));
        if (is_new) {
          if (alive.size() > out_.num_slots) {
            const auto last = std::prev(by_next.end());
            alive.erase(last->second);
            by_next.erase(last);
          }
          out_.loads.push_back({chunk.first, chunk.second});
        }
        ++out_.loads[it->second].uses;
        out_.tasks[t].loads.push_back(it->second);
      }
      for (const Chunk& chunk : needs_[t])
        if (users[chunk].empty())
          alive.erase(chunk);
        else
          by_next.emplace(users[chunk].back(), chunk);
    }
  }

  const Plan& plan_;
  const Method::Reads reads_;
  std::vector<Block> blocks_;
  std::vector<std::vector<Scan>> scans_before_;  // of each block
  std::vector<std::vector<Chunk>> needs_;        // of each task
  Schedule out_;
};

}  // namespace

std::vector<Piece> pieces(const Plan& plan, const Block& block) {
  const PlannedFile& file = plan.files[block.file];
  const std::uint64_t data = file.header.size(), from = std::max(block.at, data), to = block.at + block.bytes;
  std::vector<Piece> out;
  auto it = std::ranges::upper_bound(file.tensors, from - data, {},
                                     [](const PlannedTensor& t) { return t.info.end; });
  for (; it != file.tensors.end() && data + it->info.begin < to; ++it) {
    const std::uint64_t begin = std::max(from, data + it->info.begin),
                        end = std::min(to, data + it->info.end);
    if (begin < end)
      out.push_back({static_cast<std::size_t>(it - file.tensors.begin()), begin - data - it->info.begin,
                     end - begin, static_cast<std::size_t>(begin - block.at)});
  }
  return out;
}

Schedule make_schedule(const Plan& plan, const std::vector<std::size_t>& files, bool reflink) {
  return Planner(plan, files, reflink)();
}

std::vector<Copies> copies(const Plan& plan, std::size_t f) {
  std::vector<Copies> out;
  const std::vector<PlannedTensor>& tensors = plan.files[f].tensors;
  const auto is_copy = [&](const Origin& origin) {
    const DenseWeight& is = plan.source.weights()[origin.weight].is;
    if (origin.kind == Origin::Kind::router) return false;
    if (origin.kind == Origin::Kind::dense)
      return std::holds_alternative<Copy>(
          plan.method->weight(is, plan.source.config(), weight_key(plan, is)));
    if (plan.method->reads().moments) return false;  // what follows from statistics is not known before them
    const DenseLayer layer{origin.layer, plan.source.config(), {}};
    return std::holds_alternative<Copy>(plan.method->convert(layer, plan.shape, layer_key(plan, origin.layer))
                                            .draft(origin.expert, is.matrix));
  };
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const bool goes_on = t > 0 && tensors[t].origin.weight == tensors[t - 1].origin.weight &&
                         tensors[t].origin.kind != Origin::Kind::router &&
                         tensors[t - 1].origin.kind != Origin::Kind::router && is_copy(tensors[t].origin) &&
                         is_copy(tensors[t - 1].origin);
    if (!goes_on) out.push_back({t, 0});
    ++out.back().count;
  }
  std::erase_if(out, [](const Copies& run) { return run.count < 2; });
  return out;
}

std::size_t num_slots(const Plan& plan) {
  std::uint64_t largest = 0;
  for (const DenseModel::Weight& weight : plan.source.weights())
    if (weight.is.role == Role::matrix) largest = std::max(largest, weight.stored.info->bytes());
  // An expert of another size may need all of a matrix to its end, when the next one is being scanned.
  const std::size_t matrices = plan.shape.expert_size == plan.source.config().intermediate_size ? 1 : 2;
  return std::min<std::size_t>(matrices * (largest / kBlockBytes + 2) + kAheadSlots, kMostSlots);
}

}  // namespace upmoe
