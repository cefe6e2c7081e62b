#include "upmoe/eval/expert_use.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace upmoe::eval {
namespace {

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

ExpertUse::ExpertUse(const model::ModelConfig& config) {
  if (!config.moe) return;
  experts_ = config.moe->shape.experts;
  const auto E = static_cast<std::size_t>(experts_);
  sums_.assign(static_cast<std::size_t>(config.llama.num_layers),
               {std::vector<double>(E), std::vector<double>(E * E), std::vector<double>(E)});
}

void ExpertUse::add(const model::FfnSeen& seen) {
  if (seen.routing == nullptr) return;
  const routing::Routing& routing = *seen.routing;
  const std::int64_t N = seen.in_NH.size(0);
  Sums& sums = sums_.at(static_cast<std::size_t>(seen.layer));
  if (seen.layer == 0) tokens_ += N;
  const at::Tensor chosen_NE =
      at::zeros({N, experts_}, seen.logits_NE.options())
          .index_put({routing.token_N, routing.expert_N}, at::ones({}, seen.logits_NE.options()));
  accumulate(sums.load_E, chosen_NE.sum(0));
  accumulate(sums.together_EE, chosen_NE.t().matmul(chosen_NE));
  const at::Tensor p_NE = seen.logits_NE.softmax(-1);
  accumulate(sums.score_E, p_NE.sum(0));
  sums.entropy -= (p_NE * seen.logits_NE.log_softmax(-1)).sum().item<double>();
  const at::Tensor weight_NE = at::zeros({N, experts_}, seen.logits_NE.options())
                                   .index_put({routing.token_N, routing.expert_N}, routing.weight_N);
  sums.top_weight += std::get<0>(weight_NE.max(-1)).sum().item<double>();
  sums.logit_variance += seen.logits_NE.var(/*dim=*/-1, /*unbiased=*/false).sum().item<double>();
}

std::vector<ExpertUse::Layer> ExpertUse::layers() const {
  std::vector<Layer> out;
  const auto E = static_cast<std::size_t>(experts_);
  const auto N = static_cast<double>(std::max<std::int64_t>(tokens_, 1));
  const double most = experts_ > 1 ? std::log(static_cast<double>(experts_)) : 1;
  for (const Sums& sums : sums_) {
    Layer layer;
    for (std::size_t e = 0; e < E; ++e) {
      layer.load_E.push_back(std::llround(sums.load_E[e]));
      layer.together_EE.emplace_back();
      for (std::size_t f = 0; f < E; ++f)
        layer.together_EE.back().push_back(std::llround(sums.together_EE[e * E + f]));
    }
    layer.router_entropy = sums.entropy / N / most;
    layer.mean_entropy = entropy(sums.score_E) / most;
    layer.load_entropy = entropy(sums.load_E) / most;
    layer.top_weight = sums.top_weight / N;
    layer.logit_std = std::sqrt(sums.logit_variance / N);
    const double mean = std::accumulate(sums.load_E.begin(), sums.load_E.end(), 0.0) / static_cast<double>(E);
    layer.max_violation = mean > 0 ? std::ranges::max(sums.load_E) / mean - 1 : 0;
    layer.unused = std::ranges::count_if(sums.load_E, [mean](double load) { return load < 0.01 * mean; });
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
