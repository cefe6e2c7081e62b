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
                          std::int64_t H) {
    return NeuronMoments(matrix == Matrix::down ? column_moments(dtype, bytes, H, F)
                                                : row_moments(dtype, bytes, F, H));
  }

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

 private:
  std::vector<Moments> per_neuron_;
};

}  // namespace upmoe
