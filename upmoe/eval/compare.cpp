#include "upmoe/eval/compare.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "upmoe/base/counted.h"
#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/ops/largest.h"

namespace upmoe::eval {
namespace {

constexpr std::int64_t kBatch = 1024, kMostLogits = 1 << 24;
constexpr std::int64_t kSampled = 64;  // tokens of a batch for which every expert is run

double number(const at::Tensor& scalar) { return scalar.item<double>(); }

// |a - b| / |b|, over all that is added.
class RelativeError {
 public:
  void add(const at::Tensor& a, const at::Tensor& b) {
    const at::Tensor wide = b.to(at::kDouble);
    difference_ += number((a.to(at::kDouble) - wide).pow(2).sum());
    size_ += number(wide.pow(2).sum());
  }
  std::optional<double> value() const {
    const std::optional<double> squared = relative(difference_, size_);
    return squared ? std::optional(std::sqrt(*squared)) : std::nullopt;
  }

 private:
  double difference_ = 0, size_ = 0;
};

struct LayerSums {
  RelativeError ffn, drift;
  double cosine = 0;
  std::int64_t sampled = 0;
};

// Mean cosine over pairs of experts for each token, summed over tokens. With unit vectors u_e it is
// (|sum_e u_e|^2 - E) / (E (E - 1)).
double cosine_sum(const model::Moe& moe, const at::Tensor& x_NH) {
  const auto E = static_cast<std::int64_t>(moe.experts.gate_FH.size());
  at::Tensor sum_NH = at::zeros(x_NH.sizes(), x_NH.options().dtype(at::kDouble));
  for (std::int64_t e = 0; e < E; ++e) {
    const auto i = static_cast<std::size_t>(e);
    const at::Tensor neuron_NF = ops::swiglu(ops::linear(x_NH, moe.experts.gate_FH[i]),
                                             ops::linear(x_NH, moe.experts.up_FH[i])),
                     y_NH = ops::linear(neuron_NF, moe.experts.down_HF[i]).to(at::kDouble);
    sum_NH += y_NH / y_NH.norm(2, /*dim=*/-1, /*keepdim=*/true).clamp_min(1e-30);
  }
  return (number(sum_NH.pow(2).sum()) - static_cast<double>(x_NH.size(0) * E)) /
         static_cast<double>(E * (E - 1));
}

class Comparer {
 public:
  Comparer(const model::Model& dense, const model::Model& moe)
      : dense_(dense), moe_(moe), sums_(moe.layers.size()), use_(moe.config, /*pairs=*/false) {}

  void add(const WindowBatch& batch) {
    std::vector<at::Tensor> seen_NH;
    const at::Tensor dense_NH =
        model::hidden_states(dense_, {batch.token_BT, {}, {}}, nullptr, [&](const model::FfnSeen& seen) {
          seen_NH.push_back(seen.in_NH);
          LayerSums& sums = sums_[static_cast<std::size_t>(seen.layer)];
          sums.ffn.add(model::ffn(moe_, seen.layer, seen.in_NH), seen.out_NH);
          sample(sums, seen);
        }).flatten(0, 1);
    const at::Tensor moe_NH =
        model::hidden_states(moe_, {batch.token_BT, {}, {}}, nullptr, [&](const model::FfnSeen& seen) {
          use_.add(seen);
          at::Tensor& before = seen_NH[static_cast<std::size_t>(seen.layer)];
          sums_[static_cast<std::size_t>(seen.layer)].drift.add(seen.in_NH, before);
          before.reset();
        }).flatten(0, 1);
    compare_logits(dense_NH, moe_NH, batch.target_BT);
  }

  Comparison take() && {
    const auto N = static_cast<double>(out_.tokens);
    out_.mean_difference /= N * static_cast<double>(dense_.head_VH.size(0));
    out_.kl_mean /= N;
    out_.agreement /= N;
    for (const LayerSums& sums : sums_)
      out_.layers.push_back({sums.ffn.value(), sums.drift.value(),
                             sums.sampled > 0 ? sums.cosine / static_cast<double>(sums.sampled) : 1});
    out_.experts = use_.layers();
    return std::move(out_);
  }

 private:
  static at::Tensor logits(const model::Model& model, const at::Tensor& hidden_NH, const char* which) {
    const at::Tensor logits_NV = model::logits(model, hidden_NH);
    require(std::isfinite(ops::largest(logits_NV)),
            "{}the logits of the {} are not finite; are its weights whole?", model.where, which);
    return logits_NV.to(at::kDouble);
  }

  void sample(LayerSums& sums, const model::FfnSeen& seen) const {
    const auto* moe = std::get_if<model::Moe>(&moe_.layers[static_cast<std::size_t>(seen.layer)].ffn);
    if (moe == nullptr || moe->experts.gate_FH.size() < 2) return;
    const std::int64_t N = seen.in_NH.size(0), count = std::min(N, kSampled);
    const at::Tensor token = at::arange(count, seen.in_NH.options().dtype(at::kLong)) * N / count;
    sums.cosine += cosine_sum(*moe, seen.in_NH.index_select(0, token.to(at::kLong)));
    sums.sampled += count;
  }

  void compare_logits(const at::Tensor& dense_NH, const at::Tensor& moe_NH, const at::Tensor& target_BT) {
    const std::int64_t N = dense_NH.size(0), V = dense_.head_VH.size(0),
                       step = std::max<std::int64_t>(1, kMostLogits / V);
    const at::Tensor target_N = target_BT.flatten();
    std::vector<at::Tensor> dense_nll, moe_nll;
    for (std::int64_t begin = 0; begin < N; begin += step) {
      const std::int64_t count = std::min(step, N - begin);
      const at::Tensor a_NV = logits(dense_, dense_NH.narrow(0, begin, count), "dense model"),
                       b_NV = logits(moe_, moe_NH.narrow(0, begin, count), "Mixture of Experts");
      const at::Tensor difference = (a_NV - b_NV).abs();
      out_.most_difference = std::max(out_.most_difference, number(difference.max()));
      out_.mean_difference += number(difference.sum());
      out_.most_logit = std::max(out_.most_logit, number(a_NV.abs().max()));
      out_.agreement += number((a_NV.argmax(-1) == b_NV.argmax(-1)).sum());
      const at::Tensor log_a = a_NV.log_softmax(-1), log_b = b_NV.log_softmax(-1);
      const at::Tensor kl_N = (log_a.exp() * (log_a - log_b)).sum(-1);
      out_.kl_mean += number(kl_N.sum());
      out_.kl_most = std::max(out_.kl_most, number(kl_N.max()));
      const at::Tensor target = target_N.narrow(0, begin, count);
      const auto nll = [&target](const at::Tensor& log_p) {
        return -log_p.gather(-1, target.clamp_min(0).unsqueeze(-1)).squeeze(-1).masked_fill(target < 0, 0);
      };
      dense_nll.push_back(nll(log_a));
      moe_nll.push_back(nll(log_b));
    }
    out_.tokens += N;
    out_.dense.add(at::cat(dense_nll).view_as(target_BT), target_BT);
    out_.moe.add(at::cat(moe_nll).view_as(target_BT), target_BT);
  }

  const model::Model& dense_;
  const model::Model& moe_;
  std::vector<LayerSums> sums_;
  ExpertUse use_;
  Comparison out_;
};

}  // namespace

Comparison compare(const model::Model& dense, const model::Model& moe, const TokenFile& file,
                   const WindowOptions& options,
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  const at::NoGradGuard no_gradients;
  require(dense.head_VH.size(0) == moe.head_VH.size(0),
          "the vocabularies have {} and {} tokens, so predictions can't be compared", dense.head_VH.size(0),
          moe.head_VH.size(0));
  const std::vector<Window> windows = make_windows(file.size(), options);
  require(!windows.empty(), "{}: has {}, and at least 2 are needed", printable(file.name()),
          counted(file.size(), "token"));
  std::int64_t done = 0, total = 0;
  for (const Window& window : windows) total += window.length;
  Comparer comparer(dense, moe);
  for_each_batch(file, windows, model::tokens_at_once(moe.config, kBatch), moe.device,
                 [&](const WindowBatch& batch) {
                   comparer.add(batch);
                   done += batch.token_BT.numel();
                   if (progress) progress(done, total);
                 });
  return std::move(comparer).take();
}

}  // namespace upmoe::eval
