#include "upmoe/eval/expert_use.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace upmoe::eval {
namespace {

constexpr std::int64_t kMostNumbers = 1 << 24;  // of a table of tokens and experts

// Adds the numbers of a tensor to a table.
void accumulate(std::vector<double>& sums, const at::Tensor& some) {
  const at::Tensor flat = some.to(at::kDouble).cpu().contiguous();
  const double* value = flat.const_data_ptr<double>();
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += value[i];
}

double entropy(const std::vector<double>& shares) {
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  double out = 0;
  for (const double share : shares)
    if (share > 0) out -= share / sum * std::log(share / sum);
  return out;
}

}  // namespace

ExpertUse::ExpertUse(const model::ModelConfig& config, bool pairs) {
  if (!config.moe) return;
  experts_ = config.moe->shape.experts;
  const auto E = static_cast<std::size_t>(experts_);
  Sums none{std::vector<std::int64_t>(E), {}, std::vector<double>(E)};
  if (pairs && experts_ <= kMostPaired) none.together_EE.resize(E * E);
  sums_.assign(static_cast<std::size_t>(config.llama.num_layers), none);
}

void ExpertUse::add(const model::FfnSeen& seen) {
  if (seen.routing == nullptr) return;
  const std::int64_t N = seen.in_NH.size(0);
  Sums& sums = sums_.at(static_cast<std::size_t>(seen.layer));
  if (seen.layer == 0) tokens_ += N;
  add_pairs(*seen.routing, sums);
  const at::Tensor& logits_NX = seen.routing->logits_TX;
  if (!logits_NX.defined()) return;
  sums.have_logits = true;
  const std::int64_t most = std::max<std::int64_t>(1, kMostNumbers / experts_);
  for (std::int64_t begin = 0; begin < N; begin += most) {
    const at::Tensor z_NE = logits_NX.narrow(0, begin, std::min(most, N - begin)).narrow(1, 0, experts_),
                     p_NE = z_NE.softmax(-1);
    accumulate(sums.score_E, p_NE.sum(0));
    sums.entropy -= (p_NE * z_NE.log_softmax(-1)).sum().item<double>();
    sums.logit_variance += z_NE.var(/*dim=*/-1, /*unbiased=*/false).sum().item<double>();
  }
}

// A token's pairs lie together.
void ExpertUse::add_pairs(const routing::Routing& routing, Sums& sums) const {
  const at::Tensor token_P = routing.token_N.cpu().contiguous(),
                   expert_P = routing.expert_N.cpu().contiguous(),
                   weight_P = routing.weight_N.detach().to(at::kDouble).cpu().contiguous();
  const auto *token = token_P.const_data_ptr<std::int64_t>(),
             *expert = expert_P.const_data_ptr<std::int64_t>();
  const auto* weight = weight_P.const_data_ptr<double>();
  for (std::int64_t p = 0, end = 0; p < token_P.numel(); p = end) {
    double most = weight[p];
    for (end = p; end < token_P.numel() && token[end] == token[p]; ++end) {
      ++sums.load_E[static_cast<std::size_t>(expert[end])];
      most = std::max(most, weight[end]);
      for (std::int64_t other = p;
           !sums.together_EE.empty() && other < token_P.numel() && token[other] == token[p]; ++other)
        ++sums.together_EE[static_cast<std::size_t>(expert[end] * experts_ + expert[other])];
    }
    sums.top_weight += most;
  }
}

std::vector<ExpertUse::Layer> ExpertUse::layers() const {
  std::vector<Layer> out;
  const auto E = static_cast<std::ptrdiff_t>(experts_);
  const auto N = static_cast<double>(std::max<std::int64_t>(tokens_, 1));
  const double most = experts_ > 1 ? std::log(static_cast<double>(experts_)) : 1;
  for (const Sums& sums : sums_) {
    Layer layer{.load_E = sums.load_E};
    for (auto row = sums.together_EE.begin(); row != sums.together_EE.end(); row += E)
      layer.together_EE.emplace_back(row, row + E);
    const std::vector<double> load_E(sums.load_E.begin(), sums.load_E.end());
    if (sums.have_logits) {
      layer.router_entropy = sums.entropy / N / most;
      layer.mean_entropy = entropy(sums.score_E) / most;
      layer.logit_std = std::sqrt(sums.logit_variance / N);
    }
    layer.load_entropy = entropy(load_E) / most;
    layer.top_weight = sums.top_weight / N;
    const double mean = std::accumulate(load_E.begin(), load_E.end(), 0.0) / static_cast<double>(E);
    layer.max_violation = mean > 0 ? std::ranges::max(load_E) / mean - 1 : 0;
    layer.unused = std::ranges::count_if(load_E, [mean](double load) { return load < 0.01 * mean; });
    out.push_back(std::move(layer));
  }
  return out;
}

std::vector<double> specialisation(const std::vector<std::vector<ExpertUse::Layer>>& of_texts) {
  std::vector<double> out;
  if (of_texts.size() < 2) return out;
  const auto D = static_cast<double>(of_texts.size());
  for (std::size_t l = 0; l < of_texts.front().size(); ++l) {
    std::vector<double> mean_E(of_texts.front()[l].load_E.size());
    double within = 0;
    for (const auto& layers : of_texts) {
      const std::vector<double> load_E(layers[l].load_E.begin(), layers[l].load_E.end());
      const double sum = std::accumulate(load_E.begin(), load_E.end(), 0.0);
      for (std::size_t e = 0; e < mean_E.size(); ++e) mean_E[e] += load_E[e] / sum / D;
      within += entropy(load_E) / D;
    }
    out.push_back(std::max(0.0, entropy(mean_E) - within) / std::log(D));
  }
  return out;
}

}  // namespace upmoe::eval
