#pragma once
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "upmoe/base/hash.h"
#include "upmoe/convert/schedule.h"
#include "upmoe/io/file_window.h"

namespace upmoe {

// XXH3 of the data of every tensor, by name.
struct TensorHashes {
  std::map<std::string, std::uint64_t> output, source;  // of the source: those that were read
};

// Makes the bytes of blocks, from the plan and what of the source is in memory. Keeps what belongs to a
// tensor or a layer while it is in work: its draft, its moments, its running hash.
class BlockMaker {
 public:
  BlockMaker(const Plan& plan, const FileWindow& window, const Schedule& schedule);

  // Scans and blocks may come from any thread, in any order that begins in the schedule's.
  void scan(const Scan& scan);
  void fill(const Block& block, std::span<std::byte> buffer);

  // In the order of the blocks, one at a time: hashes the block's pieces of tensors, and lets go of what
  // belongs to tensors that are whole.
  void finish(const Block& block, std::span<const std::byte> buffer);

  // When every task is done.
  TensorHashes take_hashes() { return std::move(hashes_); }

  // Lets everyone go who waits for a scan: the run has failed.
  void stop();

 private:
  struct Tensor {
    std::once_flag drafted;
    Draft draft;
    std::vector<float> router_EH;
    std::int64_t pieces_left = 0;
    const PlannedTensor* twin = nullptr;  // an earlier tensor that it equals; then it isn't hashed itself
  };
  // What a method has made of a layer; of each of its matrices alone where drafts keep to their own.
  struct Layer {
    explicit Layer(DenseLayer layer) : dense(std::move(layer)) {}
    DenseLayer dense;
    std::once_flag converted;
    MoeLayer moe;
  };
  // A source weight that is scanned, row by row.
  struct Scanned {
    std::int64_t next_row = 0;
    std::int64_t tensors_left = 0;  // of the output, made of it
    Xxh3 hash;
    std::optional<NeuronMomentsBuilder> builder;
    std::optional<NeuronMoments> moments;
  };

  void fill_piece(const Block& block, const Piece& piece, std::span<std::byte> out);
  void draft(Tensor& tensor, const PlannedTensor& planned);
  void require_finite(const DenseModel::Weight& weight, std::uint64_t begin,
                      std::span<const std::byte> bytes) const;
  void require_made_finite(const PlannedTensor& planned, std::uint64_t begin,
                           std::span<const std::byte> bytes);
  Draft expert_draft(const PlannedTensor& planned);
  // Of the scanned weights those whose statistics a tensor of this origin may need.
  std::vector<std::size_t> scanned_for(const Origin& origin) const;
  double norm_length(const DenseModel::Weight& norm) const;
  bool is_copied(const DenseModel::Weight& weight) const;
  std::span<const std::byte> source(const DenseModel::Weight& weight) const;
  const NeuronMoments& moments(std::int64_t layer, Matrix matrix);

  const Plan& plan_;
  const Method::Reads reads_;
  const FileWindow& window_;
  std::vector<std::deque<Tensor>> tensors_;  // of each file
  std::deque<Layer> layers_;                 // by layer and matrix
  std::map<std::pair<std::int64_t, Matrix>, std::size_t> weight_of_matrix_;

  std::mutex mutex_;
  std::condition_variable scanned_some_;
  std::map<std::size_t, Scanned> scanned_;  // by weight; its nodes stay, their contents are guarded by mutex_
  bool stopped_ = false;

  Xxh3 hash_;  // of the tensor that finish() is in
  TensorHashes hashes_;
};

}  // namespace upmoe
