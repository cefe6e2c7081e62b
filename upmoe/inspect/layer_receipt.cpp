// E: experts, F: neurons of the dense FFN.
#include "upmoe/inspect/layer_receipt.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/inspect/held.h"

namespace upmoe {
namespace {

using ThreeMatrices = std::array<HashedMatrix, 3>;  // by Matrix

View view_of(const DenseModel::Weight& weight) {
  return {weight.stored.info->dtype, weight.is.shape[0], weight.is.shape.back(), weight.stored.data()};
}

// Which dense neuron each neuron of an expert is; -1: none. Where several are equal, the one in its place.
class Origins {
 public:
  explicit Origins(const std::vector<std::uint64_t>& dense_F) : dense_F_(dense_F) {
    for (std::size_t i = 0; i < dense_F.size(); ++i)
      places_.try_emplace(dense_F[i], static_cast<std::int64_t>(i));
  }
  std::int64_t of(std::uint64_t neuron, std::size_t place) const {
    if (place < dense_F_.size() && dense_F_[place] == neuron) return static_cast<std::int64_t>(place);
    const auto it = places_.find(neuron);
    return it == places_.end() ? -1 : it->second;
  }

 private:
  const std::vector<std::uint64_t>& dense_F_;
  std::unordered_map<std::uint64_t, std::int64_t> places_;
};

// One layer of both models, side by side.
class LayerComparison {
 public:
  LayerComparison(const DenseModel& dense, const MoeWeights& moe, const Target& target, std::int64_t l)
      : dense_(dense), moe_(moe), target_(target), l_(l) {
    for (const Matrix matrix : kMatrices) {
      const DenseModel::Weight& weight = dense.matrix(l, matrix);
      HashedMatrix& hashed = dense_hashes_[static_cast<std::size_t>(matrix)];
      hashed = hash_matrix(view_of(weight), matrix);
      origins_.emplace_back(hashed.neurons);
      out_.source[weight.is.name] = hex(hashed.whole);
    }
    out_.output[weight_name(target.router, l)] = hex(xxh3(moe.router(l).bytes));
  }

  // `record`: what was promised, if anything.
  LayerReceipt run(const Record* record, const MoeShape& shape) && {
    std::map<Matrix, NeuronMoments> moments;
    const DenseLayer layer{l_, dense_.config(), [&](Matrix matrix) -> const NeuronMoments& {
                             return moments_of(moments, matrix);
                           }};
    MoeLayer promised;
    if (record != nullptr) promised = record->method->convert(layer, shape, layer_key(record->seed, l_));
    std::vector<bool> covered_F(dense_hashes_[0].neurons.size());
    for (std::int64_t e = 0; e < moe_.shape().experts; ++e) {
      ThreeMatrices hashes;
      for (const Matrix matrix : kMatrices) {
        hashes[static_cast<std::size_t>(matrix)] = hash(e, matrix);
        if (record != nullptr)
          hold_to(promised.draft(e, matrix), e, matrix, hashes[static_cast<std::size_t>(matrix)]);
        release(moe_.expert(l_, e, matrix).bytes);
      }
      out_.kept_E.push_back(count(hashes, covered_F));
    }
    out_.covered = std::ranges::count(covered_F, true);
    for (const Matrix matrix : kMatrices) release(view_of(dense_.matrix(l_, matrix)).bytes);
    return std::move(out_);
  }

 private:
  const NeuronMoments& moments_of(std::map<Matrix, NeuronMoments>& known, Matrix matrix) const {
    const auto it = known.find(matrix);
    if (it != known.end()) return it->second;
    const View view = view_of(dense_.matrix(l_, matrix));
    const DenseConfig& config = dense_.config();
    return known
        .emplace(matrix, NeuronMoments::of(matrix, view.dtype, view.bytes, config.intermediate_size,
                                           config.hidden_size))
        .first->second;
  }

  HashedMatrix hash(std::int64_t e, Matrix matrix) {
    const View view = moe_.expert(l_, e, matrix);
    const Dtype before = dense_.matrix(l_, matrix).stored.info->dtype;
    if (view.dtype != before) ++out_.dtypes[fmt::format("{} to {}", name(before), name(view.dtype))];
    HashedMatrix hashed = hash_matrix(view, matrix);
    out_.output[weight_name(target_.expert.of(matrix), l_, e)] = hex(hashed.whole);
    return hashed;
  }

  void hold_to(const Draft& draft, std::int64_t e, Matrix matrix, const HashedMatrix& hashed) {
    const View dense = view_of(dense_.matrix(l_, matrix)), expert = moe_.expert(l_, e, matrix);
    const Held held = compare_with_draft(
        draft, matrix, {dense, dense_hashes_[static_cast<std::size_t>(matrix)]}, {expert, hashed});
    out_.promised += held.promised;
    out_.held += held.kept;
    const auto say = [&](std::int64_t count, const char* what) {
      if (count > 0)
        out_.broken.push_back(
            fmt::format("layer {}, expert {}, {}: {} neurons {}", l_, e, matrix_name(matrix), count, what));
    };
    say(held.promised - held.kept, "are not the source's");
    say(held.not_redrawn, "should have been re-initialised, but equal the source's");
  }

  Receipt::Kept count(const ThreeMatrices& expert, std::vector<bool>& covered_F) const {
    Receipt::Kept out;
    const auto& [gate, up, down] = expert;
    const std::vector<std::uint64_t>&dense_up = dense_hashes_[1].neurons,
          &dense_down = dense_hashes_[2].neurons;
    for (std::size_t j = 0; j < gate.neurons.size(); ++j) {
      const std::int64_t origin = origins_[0].of(gate.neurons[j], j);
      out.gate += origin >= 0;
      out.up += origins_[1].of(up.neurons[j], j) >= 0;
      out.down += origins_[2].of(down.neurons[j], j) >= 0;
      if (origin < 0) continue;
      const auto i = static_cast<std::size_t>(origin);
      if (dense_up[i] != up.neurons[j]) continue;
      ++out.paired;
      out.moved += i != j;
      out.whole += dense_down[i] == down.neurons[j];
      covered_F[i] = true;
    }
    return out;
  }

  const DenseModel& dense_;
  const MoeWeights& moe_;
  const Target& target_;
  std::int64_t l_;
  ThreeMatrices dense_hashes_;
  std::vector<Origins> origins_;  // refer to dense_hashes_
  LayerReceipt out_;
};

}  // namespace

LayerReceipt compare_layer(const DenseModel& dense, const MoeWeights& moe, const Target& target,
                           std::int64_t l, const Record* record, const MoeShape& promised) {
  return LayerComparison(dense, moe, target, l).run(record, promised);
}

}  // namespace upmoe
