#include "upmoe/upcycle/neuron_moments.h"

#include "upmoe/base/error.h"

namespace upmoe {

NeuronMoments NeuronMoments::of(Matrix matrix, Dtype dtype, std::span<const std::byte> bytes, std::int64_t F,
                                std::int64_t H) {
  NeuronMomentsBuilder builder(matrix, dtype, F, H);
  builder.add_rows(0, matrix == Matrix::down ? H : F, bytes);
  return builder.take();
}

NeuronMomentsBuilder::NeuronMomentsBuilder(Matrix matrix, Dtype dtype, std::int64_t F, std::int64_t H)
    : matrix_(matrix),
      dtype_(dtype),
      rows_(matrix == Matrix::down ? H : F),
      cols_(matrix == Matrix::down ? F : H) {
  if (matrix == Matrix::down)
    per_neuron_.resize(static_cast<std::size_t>(F));
  else
    per_neuron_.reserve(static_cast<std::size_t>(F));
}

void NeuronMomentsBuilder::add_rows(std::int64_t begin, std::int64_t end, std::span<const std::byte> bytes) {
  require(begin == next_ && begin % kRowStep == 0 && begin <= end && end <= rows_,
          "rows {} to {} of {} come after row {}; expected the next ones, from a multiple of {}", begin, end,
          rows_, next_, kRowStep);
  if (matrix_ == Matrix::down) {
    add_to_column_moments(dtype_, bytes, end - begin, per_neuron_);
  } else {
    const std::vector<Moments> some = row_moments(dtype_, bytes, end - begin, cols_);
    per_neuron_.insert(per_neuron_.end(), some.begin(), some.end());
  }
  next_ = end;
}

NeuronMoments NeuronMomentsBuilder::take() {
  require(next_ == rows_, "{} of {} rows came by", next_, rows_);
  return NeuronMoments(std::move(per_neuron_));
}

}  // namespace upmoe
