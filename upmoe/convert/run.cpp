// The output is one stream of bytes a file, cut into blocks that know nothing of tensors:
//
//   workers:  free buffer + next block -> fill it, tensor range by tensor range -> in turn: hash -> submit
//
//   writers:  write it -> give the buffer back
//
// Blocks are taken in order, so a dense matrix is needed for a short while only; whoever fills the last block
// that needs it lets it go.
#include "upmoe/convert/run.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/convert/fill.h"
#include "upmoe/io/block_writer.h"
#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

constexpr std::size_t kWriterThreads = 2;
constexpr std::size_t kMostWorkers =
    kPoolBlocks - 2;  // each holds a buffer, and one that fails does not give it back

// The part of a tensor that lies in a block.
struct Piece {
  std::size_t tensor;          // of all tensors of the plan, in the order of the stream
  std::uint64_t begin, bytes;  // within the tensor
  std::size_t at;              // within the block
};

struct Block {
  std::size_t file;
  std::uint64_t at;
  std::size_t bytes;
};

// A tensor while it is being made.
struct LiveTensor {
  const PlannedTensor* planned = nullptr;
  std::once_flag drafted;
  Draft draft;
  std::vector<float> router_EH;
  std::int64_t pieces_left = 0;  // guarded by turn_mutex_ once workers run
};

struct LiveLayer {
  explicit LiveLayer(DenseLayer layer) : dense(std::move(layer)) {}

  DenseLayer dense;
  std::once_flag converted;
  MoeLayer moe;
  std::array<std::once_flag, 3> measured;
  std::array<std::optional<NeuronMoments>, 3> moments;
  std::int64_t pieces_left = 0;  // guarded by turn_mutex_ once workers run
};

class Runner {
 public:
  Runner(const Plan& plan, const std::filesystem::path& folder, const RunOptions& options)
      : plan_(plan),
        options_(options),
        pieces_of_weight_(plan.source.weights().size()),
        writer_(kPoolBlocks, kWriterThreads) {
    for (const PlannedFile& file : plan.files) {
      outputs_.emplace_back(folder / file.name, file.bytes);
      first_tensor_.push_back(tensors_.size());
      for (const PlannedTensor& tensor : file.tensors) tensors_.emplace_back().planned = &tensor;
    }
    for (std::int64_t l = 0; l < plan.source.config().num_layers; ++l) prepare_layer(l);
    cut_into_blocks();
  }

  RunRecord run() {
    {
      std::vector<std::jthread> workers;
      for (std::size_t i = 0; i < std::clamp<std::size_t>(options_.threads, 1, kMostWorkers); ++i)
        workers.emplace_back([this] { work(); });
    }
    if (error_) std::rethrow_exception(error_);
    writer_.drain();
    for (BlockFile& file : outputs_) file.finish();
    return std::move(record_);
  }

 private:
  // ---- before the run ----

  void prepare_layer(std::int64_t l) {
    LiveLayer& layer = layers_.emplace_back(DenseLayer{l, plan_.source.config(), {}});
    for (const Matrix matrix : kMatrices) matrix_of_layer_[{l, matrix}] = &plan_.source.matrix(l, matrix);
    layer.dense.moments = [this, l](Matrix matrix) -> const NeuronMoments& { return moments(l, matrix); };
  }

  void cut_into_blocks() {
    for (std::size_t f = 0; f < plan_.files.size(); ++f)
      for (std::uint64_t at = 0; at < plan_.files[f].bytes; at += kBlockBytes)
        blocks_.push_back(
            {f, at,
             static_cast<std::size_t>(std::min<std::uint64_t>(kBlockBytes, plan_.files[f].bytes - at))});
    for (const Block& block : blocks_)
      for (const Piece& piece : pieces(block)) {
        const Origin& origin = tensors_[piece.tensor].planned->origin;
        ++tensors_[piece.tensor].pieces_left;
        ++pieces_of_weight_[origin.weight];
        if (origin.kind == Origin::Kind::expert)
          ++layers_[static_cast<std::size_t>(origin.layer)].pieces_left;
      }
  }

  std::vector<Piece> pieces(const Block& block) const {
    const PlannedFile& file = plan_.files[block.file];
    const std::uint64_t data = file.header.size(), from = std::max(block.at, data),
                        to = block.at + block.bytes;
    std::vector<Piece> out;
    auto it = std::ranges::upper_bound(file.tensors, from - data, {},
                                       [](const PlannedTensor& t) { return t.info.end; });
    for (; it != file.tensors.end() && data + it->info.begin < to; ++it) {
      const std::uint64_t begin = std::max(from, data + it->info.begin),
                          end = std::min(to, data + it->info.end);
      if (begin < end)
        out.push_back({first_tensor_[block.file] + static_cast<std::size_t>(it - file.tensors.begin()),
                       begin - data - it->info.begin, end - begin,
                       static_cast<std::size_t>(begin - block.at)});
    }
    return out;
  }

  // ---- workers ----

  void work() {
    try {
      while (true) {
        const std::span<std::byte> buffer = writer_.acquire();
        const std::size_t b =
            next_block_++;  // after the buffer: who has an early block always has a buffer to finish it
        if (b >= blocks_.size() || failed_) {
          writer_.give_back(buffer);
          return;
        }
        const Block& block = blocks_[b];
        const std::vector<Piece> parts = pieces(block);
        fill_block(block, parts, buffer);
        if (!take_turn(b, parts, buffer)) {
          writer_.give_back(buffer);
          return;
        }
        writer_.submit(buffer, block.bytes, outputs_[block.file], block.at);
      }
    } catch (...) {
      const std::lock_guard lock(turn_mutex_);
      if (!error_) error_ = std::current_exception();
      failed_ = true;
      turn_.notify_all();
    }
  }

  void fill_block(const Block& block, const std::vector<Piece>& parts, std::span<std::byte> buffer) {
    if (options_.cancelled != nullptr && *options_.cancelled) throw Interrupted();
    const std::string& header = plan_.files[block.file].header;
    if (block.at < header.size())
      std::memcpy(buffer.data(), header.data() + block.at,
                  std::min<std::size_t>(block.bytes, header.size() - block.at));
    for (const Piece& piece : parts) fill_piece(piece, buffer.subspan(piece.at, piece.bytes));
  }

  void fill_piece(const Piece& piece, std::span<std::byte> out) {
    LiveTensor& live = tensors_[piece.tensor];
    const Origin& origin = live.planned->origin;
    const DenseModel::Weight& weight = plan_.source.weights()[origin.weight];
    std::call_once(live.drafted, [&] { draft(live); });
    if (origin.kind == Origin::Kind::router) {
      std::memcpy(out.data(), reinterpret_cast<const std::byte*>(live.router_EH.data()) + piece.begin,
                  out.size());
    } else {
      const std::vector<std::int64_t>& shape = live.planned->info.shape;
      const Canvas canvas{
          .dtype = live.planned->info.dtype,
          .rows = shape[0],
          .cols = shape.size() > 1 ? shape[1] : 1,
          .neurons_in_columns = weight.is.role == Role::matrix && weight.is.matrix == Matrix::down,
          .dense = weight.stored.data(),
          .dense_rows = weight.is.shape[0],
          .dense_cols = weight.is.shape.size() > 1 ? weight.is.shape[1] : 1};
      fill(live.draft, canvas, piece.begin, out);
      if (origin.kind == Origin::Kind::dense && std::holds_alternative<Copy>(live.draft))
        release(weight.stored.data().subspan(piece.begin, out.size()));
    }
  }

  void draft(LiveTensor& live) {
    const Origin& origin = live.planned->origin;
    const DenseModel::Weight& weight = plan_.source.weights()[origin.weight];
    if (origin.kind == Origin::Kind::dense) {
      live.draft = plan_.method->weight(weight.is, plan_.source.config(), weight_key(plan_, weight.is));
    } else if (origin.kind == Origin::Kind::expert) {
      LiveLayer& layer = layers_[static_cast<std::size_t>(origin.layer)];
      std::call_once(layer.converted, [&] {
        layer.moe = plan_.method->convert(layer.dense, plan_.shape, layer_key(plan_, origin.layer));
      });
      live.draft = layer.moe.draft(origin.expert, weight.is.matrix);
    } else {
      live.router_EH = plan_.router_init->weight_EH({.E = plan_.shape.experts,
                                                     .H = plan_.source.config().hidden_size,
                                                     .gamma_length = norm_length(weight)},
                                                    layer_key(plan_, origin.layer).at("router"));
    }
  }

  // Euclidean length of the norm's weight as the output will have it.
  double norm_length(const DenseModel::Weight& norm) const {
    const std::size_t H = static_cast<std::size_t>(norm.is.shape[0]);
    std::vector<std::byte> bytes(norm.stored.info->bytes());
    std::vector<float> gamma_H(H);
    fill(plan_.method->weight(norm.is, plan_.source.config(), weight_key(plan_, norm.is)),
         {.dtype = norm.stored.info->dtype, .cols = norm.is.shape[0], .dense = norm.stored.data()}, 0, bytes);
    to_float(norm.stored.info->dtype, bytes, gamma_H);
    double squares = 0;
    for (const float gamma : gamma_H) squares += static_cast<double>(gamma) * gamma;
    return std::sqrt(squares);
  }

  const NeuronMoments& moments(std::int64_t l, Matrix matrix) {
    LiveLayer& layer = layers_[static_cast<std::size_t>(l)];
    const auto m = static_cast<std::size_t>(matrix);
    std::call_once(layer.measured[m], [&] {
      const Weights::Entry& stored = matrix_of_layer_.at({l, matrix})->stored;
      layer.moments[m] =
          NeuronMoments::of(matrix, stored.info->dtype, stored.data(),
                            plan_.source.config().intermediate_size, plan_.source.config().hidden_size);
    });
    return *layer.moments[m];
  }

  // Waits until all blocks before this one are hashed, and hashes it. False when the run has failed
  // meanwhile.
  bool take_turn(std::size_t b, const std::vector<Piece>& parts, std::span<const std::byte> buffer) {
    std::unique_lock lock(turn_mutex_);
    turn_.wait(lock, [&] { return turn_of_ == b || failed_; });
    if (failed_) return false;
    for (const Piece& piece : parts) {
      hash_.update(buffer.subspan(piece.at, piece.bytes));
      finish_piece(piece);
    }
    done_bytes_ += blocks_[b].bytes;
    if (options_.progress) options_.progress(done_bytes_, plan_.file_bytes);
    ++turn_of_;
    turn_.notify_all();
    return true;
  }

  // In turn, so a tensor's pieces come here in their order; what nobody needs any more is let go.
  void finish_piece(const Piece& piece) {
    LiveTensor& live = tensors_[piece.tensor];
    const Origin& origin = live.planned->origin;
    const DenseModel::Weight& weight = plan_.source.weights()[origin.weight];
    const bool reads_source = origin.kind != Origin::Kind::router &&
                              !std::holds_alternative<Draw>(live.draft) &&
                              !std::holds_alternative<Constant>(live.draft);
    if (--live.pieces_left == 0) {
      const std::uint64_t digest = hash_.digest();
      record_.output[live.planned->info.name] = digest;
      // What was only copied has the hash of what it was copied from.
      if (origin.kind == Origin::Kind::dense && reads_source) record_.source[weight.is.name] = digest;
      hash_ = Xxh3();
      live.draft = Copy{};
      live.router_EH = {};
    }
    if (--pieces_of_weight_[origin.weight] == 0) {
      if (origin.kind == Origin::Kind::expert && reads_source)
        record_.source[weight.is.name] = xxh3(weight.stored.data());
      release(weight.stored.data());
    }
    if (origin.kind == Origin::Kind::expert &&
        --layers_[static_cast<std::size_t>(origin.layer)].pieces_left == 0)
      layers_[static_cast<std::size_t>(origin.layer)].moments = {};
  }

  const Plan& plan_;
  const RunOptions& options_;
  std::vector<std::size_t> first_tensor_;  // of each file, within tensors_
  std::deque<LiveTensor> tensors_;
  std::deque<LiveLayer> layers_;
  std::vector<std::int64_t> pieces_of_weight_;  // left; guarded by turn_mutex_ once workers run
  std::map<std::pair<std::int64_t, Matrix>, const DenseModel::Weight*> matrix_of_layer_;
  std::vector<Block> blocks_;
  std::atomic<std::size_t> next_block_ = 0;

  std::mutex turn_mutex_;
  std::condition_variable turn_;
  std::size_t turn_of_ = 0;  // from here on guarded by turn_mutex_
  std::uint64_t done_bytes_ = 0;
  Xxh3 hash_;
  RunRecord record_;
  std::exception_ptr error_;
  std::atomic<bool> failed_ = false;

  std::deque<BlockFile> outputs_;
  BlockWriter writer_;  // last: stops writing before the files are closed
};

}  // namespace

RunRecord run_plan(const Plan& plan, const std::filesystem::path& folder, const RunOptions& options) {
  return Runner(plan, folder, options).run();
}

}  // namespace upmoe
