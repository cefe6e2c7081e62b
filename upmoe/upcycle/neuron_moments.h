#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "upmoe/checkpoint/moe_shape.h"
#include "upmoe/tensor/moments.h"

namespace upmoe {

// Mean and deviation of each neuron's weights in one matrix; those of a set of neurons follow from them, so
// that a dense matrix is read once for all experts. Merged in ascending order: the same bits on every
// machine.
class NeuronMoments {
 public:
  explicit NeuronMoments(std::vector<Moments> per_neuron) : per_neuron_(std::move(per_neuron)) {}

  // gate_FH and up_FH have their neurons in rows, down_HF in columns.
  static NeuronMoments of(Matrix matrix, Dtype dtype, std::span<const std::byte> bytes, std::int64_t F,
                          std::int64_t H);

  Moments of_neurons(std::span<const std::int32_t> neurons) const {
    Moments all;
    for (const std::int32_t neuron : neurons)
      all = combine(all, per_neuron_[static_cast<std::size_t>(neuron)]);
    return all;
  }
  Moments of_all() const {
    Moments all;
    for (const Moments& one : per_neuron_) all = combine(all, one);
    return all;
  }

  bool operator==(const NeuronMoments&) const = default;

 private:
  std::vector<Moments> per_neuron_;
};

// The same while the matrix comes by: the same bits for any cut into ranges of rows.
class NeuronMomentsBuilder {
 public:
  static constexpr std::int64_t kRowStep = kMomentRows;

  NeuronMomentsBuilder(Matrix matrix, Dtype dtype, std::int64_t F, std::int64_t H);

  // Rows [begin, end) of the matrix as it is stored: neurons of gate_FH and up_FH, not of down_HF. `begin` is
  // where the last call ended, and a multiple of kRowStep.
  void add_rows(std::int64_t begin, std::int64_t end, std::span<const std::byte> bytes);

  // When all rows have come by; the builder is spent.
  NeuronMoments take();

 private:
  Matrix matrix_;
  Dtype dtype_;
  std::int64_t rows_, cols_, next_ = 0;
  std::vector<Moments> per_neuron_;
};

}  // namespace upmoe
