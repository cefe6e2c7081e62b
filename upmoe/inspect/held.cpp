#include "upmoe/inspect/held.h"

#include <algorithm>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/tensor/convert.h"

namespace upmoe {
namespace {

class Comparison {
 public:
  Comparison(Matrix matrix, const MatrixSide& dense, const MatrixSide& expert)
      : matrix_(matrix), dense_(dense), expert_(expert) {}

  Held operator()(const Draw& /*drawn*/) const { return {}; }
  Held operator()(const Constant& /*constant*/) const { return {}; }
  Held operator()(const Copy& /*copy*/) const { return all_but({}, /*redrawn=*/false); }
  Held operator()(const Disturb& disturb) const { return all_but(disturb.neurons, /*redrawn=*/false); }
  Held operator()(const Redraw& redraw) const { return all_but(redraw.neurons, redraw.draw.sigma > 0); }
  Held operator()(const Pick& pick) const {
    require_size(pick.neurons.size());
    Held out{.promised = static_cast<std::int64_t>(size())};
    if (pick.scale != 1) {
      out.kept = count_scaled(pick);
      return out;
    }
    for (std::size_t j = 0; j < size(); ++j)
      if (expert_.hashed.neurons[j] == dense_neuron(pick.neurons[j])) ++out.kept;
    return out;
  }

 private:
  std::size_t size() const { return expert_.hashed.neurons.size(); }
  std::uint64_t dense_neuron(std::int32_t i) const {
    return dense_.hashed.neurons.at(static_cast<std::size_t>(i));
  }
  void require_size(std::size_t wanted) const {
    require(size() == wanted, "an expert has {} neurons, and its method makes experts of {}", size(), wanted);
  }

  Held all_but(const std::vector<std::int32_t>& changed, bool redrawn) const {
    require_size(dense_.hashed.neurons.size());
    Held out{.promised = static_cast<std::int64_t>(size() - changed.size())};
    auto next = changed.begin();
    for (std::size_t j = 0; j < size(); ++j) {
      const bool same = expert_.hashed.neurons[j] == dense_.hashed.neurons[j];
      if (next != changed.end() && static_cast<std::size_t>(*next) == j) {
        ++next;
        if (same && redrawn) ++out.not_redrawn;
      } else if (same) {
        ++out.kept;
      }
    }
    return out;
  }

  // As convert/fill has it: in float, rounded once.
  std::int64_t count_scaled(const Pick& pick) const {
    const View &dense = dense_.view, &expert = expert_.view;
    const bool columns = matrix_ == Matrix::down;
    if (dense.dtype != expert.dtype) return 0;
    require((columns ? dense.rows : dense.cols) == (columns ? expert.rows : expert.cols),
            "an expert has another hidden size");
    const auto element = static_cast<std::size_t>(bits(expert.dtype)) / 8;
    std::vector<float> dense_row(static_cast<std::size_t>(dense.cols)),
        wanted(static_cast<std::size_t>(expert.cols));
    std::vector<std::byte> bytes(wanted.size() * element);
    std::vector<bool> same(size(), true);
    for (std::int64_t r = 0; r < expert.rows; ++r) {
      to_float(dense.dtype, dense.row(columns ? r : pick.neurons[static_cast<std::size_t>(r)]), dense_row);
      for (std::size_t c = 0; c < wanted.size(); ++c)
        wanted[c] = dense_row[columns ? static_cast<std::size_t>(pick.neurons[c]) : c] * pick.scale;
      from_float(wanted, expert.dtype, bytes);
      const std::span<const std::byte> there = expert.row(r);
      for (std::size_t c = 0; c < wanted.size(); ++c)
        if (std::memcmp(bytes.data() + c * element, there.data() + c * element, element) != 0)
          same[columns ? c : static_cast<std::size_t>(r)] = false;
    }
    return std::ranges::count(same, true);
  }

  Matrix matrix_;
  const MatrixSide& dense_;
  const MatrixSide& expert_;
};

}  // namespace

Held compare_with_draft(const Draft& draft, Matrix matrix, const MatrixSide& dense,
                        const MatrixSide& expert) {
  return std::visit(Comparison(matrix, dense, expert), draft);
}

}  // namespace upmoe
