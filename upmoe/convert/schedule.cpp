#include "upmoe/convert/schedule.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/io/file_window.h"

namespace upmoe {
namespace {

constexpr std::size_t kAheadSlots = 8;
constexpr std::size_t kScanLead = 4;  // blocks between the last scan of a weight and the first that needs it

using Chunk = std::pair<std::size_t, std::uint64_t>;  // file, number

struct Chunks {  // of one file, end exclusive
  std::size_t file;
  std::uint64_t begin, end;
};

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

std::vector<Block> blocks_of(const Plan& plan, std::size_t f, std::size_t block_bytes) {
  std::vector<Block> out;
  for (std::uint64_t at = 0, end = plan.files[f].bytes; at < end; at += block_bytes)
    out.push_back({f, at, static_cast<std::size_t>(std::min<std::uint64_t>(block_bytes, end - at))});
  return out;
}

// What has to be scanned, and which chunks of the source a task needs.
class Needs {
 public:
  Needs(const Plan& plan, const Sizes& sizes) : plan_(plan), sizes_(sizes), reads_(plan.method->reads()) {
    for (std::size_t w = 0; w < plan.source.weights().size(); ++w)
      if (const DenseWeight& is = plan.source.weights()[w].is; is.role == Role::matrix)
        matrices_of_[is.layer].push_back(w);
  }

  // Weights that have to be scanned before the first tensor of this origin is made. What is copied whole has
  // the hash of its copy; every other weight that is read is scanned.
  std::vector<std::size_t> scanned_for(const Origin& origin) const {
    if (origin.kind == Origin::Kind::router) return {};
    if (origin.kind == Origin::Kind::expert) {
      if (reads_.moments && !reads_.own_place) return matrices_of_.at(origin.layer);
      return reads_.weights || reads_.moments ? std::vector{origin.weight} : std::vector<std::size_t>();
    }
    const Draft draft = dense_draft(origin.weight);
    return reads_source(draft) && !std::holds_alternative<Copy>(draft) ? std::vector{origin.weight}
                                                                       : std::vector<std::size_t>();
  }

  std::vector<Scan> scans_of(std::size_t w) const {
    const Rows rows = rows_of(plan_.source.weights()[w]);
    constexpr std::int64_t kGrid = NeuronMomentsBuilder::kRowStep;
    const auto fitting = static_cast<std::int64_t>(sizes_.block / std::max<std::uint64_t>(rows.bytes, 1));
    const std::int64_t step = std::max<std::int64_t>(fitting / kGrid, 1) * kGrid;
    std::vector<Scan> out;
    for (std::int64_t begin = 0; begin < rows.count; begin += step)
      out.push_back({w, begin, std::min(begin + step, rows.count)});
    return out;
  }

  std::vector<Chunks> of(const Scan& scan) const {
    const Rows rows = rows_of(plan_.source.weights()[scan.weight]);
    return {range(scan.weight, static_cast<std::uint64_t>(scan.begin) * rows.bytes,
                  static_cast<std::uint64_t>(scan.end) * rows.bytes)};
  }

  std::vector<Chunks> of(const Block& block) const {
    std::vector<Chunks> out;
    if (block.repeats != 0) return out;
    for (const Piece& piece : pieces(plan_, block)) {
      const PlannedTensor& tensor = plan_.files[block.file].tensors[piece.tensor];
      // Of its norm a router needs the length only, which is read beside the window: all routers are in one
      // block.
      if (tensor.origin.kind == Origin::Kind::router) continue;
      const bool is_expert = tensor.origin.kind == Origin::Kind::expert;
      const Draft draft = is_expert ? Draft() : dense_draft(tensor.origin.weight);
      if (is_expert ? reads_.weights : reads_source(draft))
        out.push_back(
            source_of(tensor, piece, is_expert ? reads_.own_place : !std::holds_alternative<Pick>(draft)));
    }
    return merged(std::move(out));
  }

  Draft dense_draft(std::size_t w) const {
    const DenseWeight& is = plan_.source.weights()[w].is;
    return plan_.method->weight(is, plan_.source.config(), weight_key(plan_, is));
  }

 private:
  // The source of a piece: the same bytes, if weights stay in their place. Otherwise any neurons: all rows of
  // gate and up, but of down (whose neurons are columns) the same rows.
  Chunks source_of(const PlannedTensor& tensor, const Piece& piece, bool own_place) const {
    const std::size_t w = tensor.origin.weight;
    const DenseModel::Weight& weight = plan_.source.weights()[w];
    const Rows dense = rows_of(weight);
    if (own_place && tensor.info.shape == weight.stored.info->shape)
      return range(w, piece.begin, piece.begin + piece.bytes);
    if (weight.is.role != Role::matrix || weight.is.matrix != Matrix::down)
      return range(w, 0, weight.stored.info->bytes());
    const std::uint64_t row = tensor.info.bytes() / static_cast<std::uint64_t>(tensor.info.shape[0]);
    return range(w, piece.begin / row * dense.bytes,
                 (piece.begin + piece.bytes + row - 1) / row * dense.bytes);
  }

  Chunks range(std::size_t w, std::uint64_t begin, std::uint64_t end) const {
    const Weights::Entry& stored = plan_.source.weights()[w].stored;
    const std::uint64_t data = stored.file->data_begin(*stored.info);
    return {plan_.source.files().file_number(stored), (data + begin) / sizes_.chunk,
            (data + end + sizes_.chunk - 1) / sizes_.chunk};
  }

  static std::vector<Chunks> merged(std::vector<Chunks> ranges) {
    std::ranges::sort(ranges, {}, [](const Chunks& c) { return std::pair(c.file, c.begin); });
    std::vector<Chunks> out;
    for (const Chunks& next : ranges)
      if (!out.empty() && out.back().file == next.file && next.begin <= out.back().end)
        out.back().end = std::max(out.back().end, next.end);
      else
        out.push_back(next);
    return out;
  }

  const Plan& plan_;
  const Sizes sizes_;
  const Method::Reads reads_;
  std::map<std::int64_t, std::vector<std::size_t>> matrices_of_;  // of each layer
};

std::size_t count(const std::vector<Chunks>& ranges) {
  std::size_t out = 0;
  for (const Chunks& range : ranges) out += range.end - range.begin;
  return out;
}

// Slots for the largest matrix and some reading ahead, up to a bound that no model moves. Few, since memory
// that was never touched costs more than reading into it.
std::size_t usual_slots(const Plan& plan, const Sizes& sizes) {
  std::uint64_t largest = 0;
  for (const DenseModel::Weight& weight : plan.source.weights())
    if (weight.is.role == Role::matrix) largest = std::max(largest, weight.stored.info->bytes());
  // An expert of another size may need all of a matrix to its end, when the next one is being scanned.
  const std::size_t matrices = plan.shape.expert_size == plan.source.config().intermediate_size ? 1 : 2;
  return std::min<std::size_t>(matrices * (largest / sizes.chunk + 2) + kAheadSlots, sizes.most_slots);
}

// With what a task needs at once two more are read ahead.
std::size_t slots_for(std::size_t needed) { return needed + 2; }

class Planner {
 public:
  Planner(const Plan& plan, const std::vector<std::size_t>& files, bool reflink, const Sizes& sizes)
      : plan_(plan), needs_of_(plan, sizes) {
    out_.sizes = sizes;
    out_.num_slots = usual_slots(plan, sizes);
    for (const std::size_t f : files) {
      const std::vector<Block> blocks = blocks_of(plan, f, sizes.block);
      blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
    }
    for (const std::size_t f : files)
      for (const Copies& run : copies(plan, f)) {
        if (reflink) mark_repeats(f, run);
        if (plan.files[f].tensors[run.first].origin.kind == Origin::Kind::dense) interleave(f, run);
      }
  }

  Schedule operator()() {
    place_scans();
    std::size_t tasks = blocks_.size();
    for (const std::vector<Scan>& scans : scans_before_) tasks += scans.size();
    out_.tasks.reserve(tasks);
    needs_.reserve(tasks);
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
    shift *= (out_.sizes.block + shift - 1) / shift;
    for (Block& block : blocks_)
      if (block.file == f && block.bytes == out_.sizes.block && block.at >= begin + shift &&
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

  void place_scans() {
    scans_before_.resize(blocks_.size() + 1);
    std::set<std::size_t> seen;
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      for (const Piece& piece : pieces(plan_, blocks_[b])) {
        const Origin& origin = plan_.files[blocks_[b].file].tensors[piece.tensor].origin;
        for (const std::size_t w : needs_of_.scanned_for(origin)) {
          if (!seen.insert(w).second) continue;
          const std::vector<Scan> scans = needs_of_.scans_of(w);
          for (std::size_t i = 0; i < scans.size(); ++i) {
            const std::size_t before = kScanLead + scans.size() - i;
            scans_before_[b - std::min(b, before)].push_back(scans[i]);
          }
        }
      }
  }

  void add_scan(const Scan& scan) {
    Task& task = out_.tasks.emplace_back();
    task.is_scan = true;
    task.scan = scan;
    needs_.push_back(needs_of_.of(scan));
  }

  void add_block(const Block& block) {
    out_.tasks.emplace_back().block = block;
    needs_.push_back(needs_of_.of(block));
  }

  // ---- loads ----

  static void for_each(const std::vector<Chunks>& ranges, auto&& work) {
    for (const Chunks& range : ranges)
      for (std::uint64_t number = range.begin; number < range.end; ++number) work(Chunk(range.file, number));
  }

  void assign_loads() {
    std::map<Chunk, std::vector<std::uint32_t>> users;  // tasks that need a chunk, in reverse order
    for (std::size_t t = needs_.size(); t-- > 0;) {
      out_.num_slots = std::max(out_.num_slots, slots_for(count(needs_[t])));
      for_each(needs_[t], [&](const Chunk& chunk) { users[chunk].push_back(static_cast<std::uint32_t>(t)); });
    }
    std::map<Chunk, std::uint32_t> alive;               // -> its load
    std::set<std::pair<std::uint32_t, Chunk>> by_next;  // those alive, by the task that needs them next
    for (std::size_t t = 0; t < needs_.size(); ++t) {
      out_.tasks[t].loads.reserve(count(needs_[t]));
      for_each(needs_[t], [&](const Chunk& chunk) {
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
      });
      for_each(needs_[t], [&](const Chunk& chunk) {
        if (users[chunk].empty())
          alive.erase(chunk);
        else
          by_next.emplace(users[chunk].back(), chunk);
      });
    }
  }

  const Plan& plan_;
  const Needs needs_of_;
  std::vector<Block> blocks_;
  std::vector<std::vector<Scan>> scans_before_;  // of each block
  std::vector<std::vector<Chunks>> needs_;       // of each task
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

Schedule make_schedule(const Plan& plan, const std::vector<std::size_t>& files, bool reflink,
                       const Sizes& sizes) {
  return Planner(plan, files, reflink, sizes)();
}

void refuse_moments(const Plan& plan, std::int64_t layer, Matrix matrix) {
  fail("method '{}' asks for moments of layer {}'s {} that are not there: its reads() has to say so",
       plan.request.method, layer, matrix_name(matrix));
}

Demand demand(const Plan& plan, const Sizes& sizes) {
  const Needs needs(plan, sizes);
  Demand out{.slots = usual_slots(plan, sizes)};
  std::uint64_t tasks = 0, uses = 0, chunks = 0;
  std::set<std::size_t> scanned;
  const auto add = [&](const std::vector<Chunks>& needed) {
    const std::size_t all = count(needed);
    out.slots = std::max(out.slots, slots_for(all));
    uses += all;
    ++tasks;
  };
  for (std::size_t f = 0; f < plan.files.size(); ++f)
    for (const Block& block : blocks_of(plan, f, sizes.block)) {
      add(needs.of(block));
      for (const Piece& piece : pieces(plan, block))
        for (const std::size_t w : needs.scanned_for(plan.files[f].tensors[piece.tensor].origin))
          if (scanned.insert(w).second)
            for (const Scan& scan : needs.scans_of(w)) add(needs.of(scan));
    }
  for (const SafetensorsFile& file : plan.source.files().files())
    chunks += num_chunks(file.identity().bytes, sizes.chunk);
  out.bookkeeping = 192 * tasks + 16 * uses + 256 * chunks;
  return out;
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
    const DenseLayer layer{origin.layer, plan.source.config(), [&](Matrix matrix) -> const NeuronMoments& {
                             refuse_moments(plan, origin.layer, matrix);
                           }};
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

}  // namespace upmoe
