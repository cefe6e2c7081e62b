#include "upmoe/eval/calibrate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "upmoe/base/counted.h"
#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/random/sample.h"

namespace upmoe::eval {
namespace {

constexpr std::int64_t kMostNeurons = 1 << 29, kMostWide = 1 << 24;  // values at once; of those in float64

std::span<const std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const std::byte*>(contiguous.const_data_ptr()), contiguous.nbytes()};
}

// Of sums over the tokens of each text.
at::Tensor mean(const at::Tensor& sum_DX, const std::vector<std::int64_t>& tokens_D) {
  return sum_DX.cpu() / at::tensor(tokens_D).to(at::kDouble).unsqueeze(1);
}

}  // namespace

void Calibrator::Moments::add(std::int64_t text, const at::Tensor& x_NH) {
  const at::Tensor wide = x_NH.to(at::kDouble);
  sum_DH.select(0, text).add_(wide.sum(0));
  square_DH.select(0, text).add_(wide.square().sum(0));
}

Calibrator::Calibrator(const model::Model& model, const std::vector<TokenFile>& texts,
                       const CalibrateOptions& options)
    : model_(model), texts_(texts), options_(options) {
  const auto& moe = model.config.moe;
  const std::int64_t F = moe ? 0 : model.config.llama.intermediate_size;
  require_asked(options.samples >= 1, "samples is {}, expected at least 1", options.samples);
  require_asked(options.batch_tokens >= 1, "batch-tokens is {}, expected at least 1", options.batch_tokens);
  require_asked(moe || (options.active >= 1 && options.active <= F),
                "active is {}, expected from 1 to the {} neurons of a layer", options.active, F);
  require_asked(
      !moe || (!options.co_activation && !options.importance),
      "co-activation and importance are of the neurons of a dense FFN, and this is a Mixture of Experts");
  for (const TokenFile& text : texts) {
    windows_D_.push_back(
        make_windows(text.size(), {.context = options.context, .max_tokens = options.max_tokens}));
    require(!windows_D_.back().empty(), "{}: has {}, and at least 2 are needed", printable(text.name()),
            counted(text.size(), "token"));
    const Window& last = windows_D_.back().back();
    tokens_D_.push_back(last.begin + last.length);
    const std::int64_t numbers = windows_D_.back().front().length * F;
    require_asked(
        numbers <= kMostNeurons,
        "a window of {} tokens has {} values of neurons in a layer, at most {} are taken at once; choose a "
        "smaller --context",
        windows_D_.back().front().length, numbers, kMostNeurons);
  }
  choose_samples();
  shape_ = {.layers = model.config.llama.num_layers,
            .hidden = model.config.llama.hidden_size,
            .neurons = F,
            .experts = moe ? moe->shape.experts : 0,
            .texts = static_cast<std::int64_t>(texts.size()),
            .samples = static_cast<std::int64_t>(sample_text_M_.size()),
            .covariance = options.covariance,
            .co_activation = options.co_activation,
            .importance = options.importance};
  const auto [L, H, neurons, E, D, M, covariance, co_activation, importance] = shape_;
  const auto zeros = [&](std::int64_t rows, std::int64_t columns) {
    return at::zeros({rows, columns}, at::TensorOptions(at::kDouble).device(model.device));
  };
  for (std::int64_t l = 0; l < L; ++l)
    layers_.push_back({.router_input_MH = at::zeros({M, H}, at::kFloat),
                       .product_HH = covariance ? zeros(H, H) : at::Tensor(),
                       .router_input = {zeros(D, H), zeros(D, H)},
                       .ffn_output = {zeros(D, H), zeros(D, H)},
                       .abs_DF = zeros(D, neurons),
                       .square_DF = zeros(D, neurons),
                       .importance_DF = zeros(D, neurons),
                       .counts = ActiveCounts(D, neurons, co_activation),
                       .expert_DE = std::vector<std::int64_t>(static_cast<std::size_t>(D * E))});
}

// By number among all tokens that are looked at, so nothing else decides about it.
void Calibrator::choose_samples() {
  const std::int64_t all = std::accumulate(tokens_D_.begin(), tokens_D_.end(), std::int64_t{0});
  const std::int64_t samples = std::min(options_.samples, all);
  std::int64_t begin = 0;
  std::size_t text = 0;
  for (const std::int32_t token : choose(Rng(options_.seed).at("calibrate").at("tokens"), samples, all)) {
    while (token >= begin + tokens_D_[text]) begin += tokens_D_[text++];
    sample_text_M_.push_back(static_cast<std::int32_t>(text));
    sample_token_M_.push_back(token - begin);
  }
}

void Calibrator::run(const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  const at::NoGradGuard no_gradients;
  const std::int64_t total = std::accumulate(tokens_D_.begin(), tokens_D_.end(), std::int64_t{0});
  const std::int64_t steps = shape_.layers * (options_.importance ? 3 : 1);
  std::int64_t done = 0;
  std::size_t slot = 0;
  for (std::size_t d = 0; d < texts_.size(); ++d)
    for_each_batch(
        texts_[d], windows_D_[d],
        std::min(options_.batch_tokens, kMostNeurons / std::max<std::int64_t>(1, shape_.neurons)),
        model_.device, [&](const WindowBatch& windows) {
          const std::int64_t begin = windows_D_[d][windows.first].begin, N = windows.token_BT.numel();
          const std::size_t first_slot = slot;
          std::vector<std::int64_t> rows;
          for (; slot < sample_text_M_.size() && sample_text_M_[slot] == static_cast<std::int32_t>(d) &&
                 sample_token_M_[slot] < begin + N;
               ++slot)
            rows.push_back(sample_token_M_[slot] - begin);
          run_batch({static_cast<std::int64_t>(d), windows.token_BT, windows.target_BT,
                     static_cast<std::int64_t>(first_slot), at::tensor(rows, at::kLong).to(model_.device)},
                    [&](std::int64_t step) {
                      if (progress) progress(done + N * step / steps, total);
                    });
          done += N;
        });
}

void Calibrator::run_batch(const Batch& batch, const Tick& tick) {
  const model::Input input{batch.token_BT, {}, {}};
  std::vector<at::Tensor> inputs_BTH;  // of every layer, and the output of the last
  at::Tensor x_BTH = model::embed(model_, input);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    if (options_.importance) inputs_BTH.push_back(x_BTH);
    x_BTH = model::run_layer(model_, l, input, x_BTH, model_.compute,
                             [&](const model::FfnSeen& seen) { see(batch, seen); });
    tick(static_cast<std::int64_t>(l) + 1);
  }
  inputs_BTH.push_back(x_BTH);
  if (options_.importance) add_importance(batch, inputs_BTH, tick);
}

void Calibrator::see(const Batch& batch, const model::FfnSeen& seen) {
  Layer& layer = layers_[static_cast<std::size_t>(seen.layer)];
  layer.router_input.add(batch.text, seen.in_NH);
  layer.ffn_output.add(batch.text, seen.out_NH);
  layer.router_input_MH.narrow(0, batch.first_slot, batch.sampled_rows.size(0))
      .copy_(seen.in_NH.index_select(0, batch.sampled_rows));
  if (options_.covariance) {
    const at::Tensor wide = seen.in_NH.to(at::kDouble);
    layer.product_HH.addmm_(wide.t(), wide);
  }
  if (seen.routing == nullptr) return see_neurons(batch.text, seen);
  const at::Tensor expert_P = seen.routing->expert_N.cpu().contiguous();
  const auto* expert = expert_P.const_data_ptr<std::int64_t>();
  for (std::int64_t p = 0; p < expert_P.numel(); ++p)
    ++layer.expert_DE[static_cast<std::size_t>(batch.text * shape_.experts + expert[p])];
}

void Calibrator::see_neurons(std::int64_t text, const model::FfnSeen& seen) {
  Layer& layer = layers_[static_cast<std::size_t>(seen.layer)];
  const std::int64_t N = seen.neuron_NF.size(0), step = std::max<std::int64_t>(1, kMostWide / shape_.neurons);
  for (std::int64_t begin = 0; begin < N; begin += step) {
    const at::Tensor wide_NF = seen.neuron_NF.narrow(0, begin, std::min(step, N - begin)).to(at::kDouble),
                     sum_F = wide_NF.abs().sum(0);
    require(sum_F.isfinite().all().item<bool>(),
            "{}layer {}: the neurons are not finite numbers; are the weights whole?", model_.where,
            seen.layer);
    layer.abs_DF.select(0, text).add_(sum_F);
    layer.square_DF.select(0, text).add_(wide_NF.square().sum(0));
  }
  const auto& ffn = std::get<model::Ffn>(model_.layers[static_cast<std::size_t>(seen.layer)].ffn);
  const at::Tensor value_NF = options_.cosine ? cosine_neurons(ffn, seen.in_NH) : seen.neuron_NF;
  layer.counts.add(text, most_active(value_NF, options_.active), options_.active);
}

// Layer by layer from the last, in float32, each run once more from its input: so one layer's activations at
// a time are in memory. |a dL/da| with L the summed nll of the batch: arXiv:2406.16554, by one Taylor term.
void Calibrator::add_importance(const Batch& batch, const std::vector<at::Tensor>& inputs_BTH,
                                const Tick& tick) {
  const at::AutoGradMode with_gradients(true);
  const auto leaf = [](const at::Tensor& x) { return x.detach().to(at::kFloat).set_requires_grad(true); };
  at::Tensor x_BTH = leaf(inputs_BTH.back());
  const at::Tensor loss = ops::token_nll(model::final_norm(model_, x_BTH, at::kFloat).flatten(0, 1),
                                         model_.head_VH, batch.target_BT.flatten())
                              .sum();
  require(std::isfinite(loss.item<double>()), "{}the loss is not finite; are the weights whole?",
          model_.where);
  loss.backward();
  for (std::size_t l = layers_.size(); l-- > 0;) {
    const at::Tensor gradient_BTH = x_BTH.grad();
    x_BTH = leaf(inputs_BTH[l]);
    at::Tensor neuron_NF;
    model::run_layer(model_, l, {batch.token_BT, {}, {}}, x_BTH, at::kFloat, [&](const model::FfnSeen& seen) {
      neuron_NF = seen.neuron_NF;
      neuron_NF.retain_grad();
    }).backward(gradient_BTH);
    const at::NoGradGuard no_gradients;
    layers_[l]
        .importance_DF.select(0, batch.text)
        .add_((neuron_NF * neuron_NF.grad()).abs().to(at::kDouble).sum(0));
    tick(shape_.layers * 3 - 2 * static_cast<std::int64_t>(l));
  }
}

void Calibrator::write(SafetensorsWriter& out) const {
  const auto put = [&](const std::string& name, const at::Tensor& numbers) {
    const at::Tensor narrow = numbers.to(at::kFloat).cpu().contiguous();
    require(narrow.isfinite().all().item<bool>(),
            "{}'{}' has a number that is not finite; are the weights whole?", model_.where, name);
    out.put(name, bytes_of(narrow));
  };
  out.put("tokens", std::as_bytes(std::span(tokens_D_)));
  out.put("sample.token", std::as_bytes(std::span(sample_token_M_)));
  out.put("sample.text", std::as_bytes(std::span(sample_text_M_)));
  for (std::int64_t l = 0; l < shape_.layers; ++l) {
    const Layer& layer = layers_[static_cast<std::size_t>(l)];
    const auto name = [l](std::string_view what) { return calibration_name(l, what); };
    const auto put_moments = [&](const std::string& what, const Moments& moments) {
      const at::Tensor mean_DH = mean(moments.sum_DH, tokens_D_);
      put(name(what + "_mean"), mean_DH);
      put(name(what + "_std"), (mean(moments.square_DH, tokens_D_) - mean_DH.square()).clamp_min(0).sqrt());
    };
    put(name("router_input"), layer.router_input_MH);
    put_moments("router_input", layer.router_input);
    put_moments("ffn_output", layer.ffn_output);
    if (shape_.covariance) {
      const auto all =
          static_cast<double>(std::accumulate(tokens_D_.begin(), tokens_D_.end(), std::int64_t{0}));
      const at::Tensor mean_H1 = (layer.router_input.sum_DH.sum(0) / all).unsqueeze(1);
      put(name("router_input_covariance"), layer.product_HH / all - mean_H1 * mean_H1.t());
    }
    if (shape_.experts > 0) {
      out.put(name("expert_tokens"), std::as_bytes(std::span(layer.expert_DE)));
      continue;
    }
    put(name("neuron_mean_abs"), mean(layer.abs_DF, tokens_D_));
    put(name("neuron_mean_square"), mean(layer.square_DF, tokens_D_));
    out.put(name("active"), std::as_bytes(std::span(layer.counts.active_DF())));
    if (shape_.importance) put(name("importance"), mean(layer.importance_DF, tokens_D_));
    if (!shape_.co_activation) continue;
    const std::vector<std::int32_t> together_FF = layer.counts.together_FF();
    out.put(name("co_active"), std::as_bytes(std::span(together_FF)));
  }
}

}  // namespace upmoe::eval
