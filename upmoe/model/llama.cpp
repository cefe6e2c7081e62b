#include "upmoe/model/llama.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>

#include "upmoe/base/error.h"
#include "upmoe/model/rope.h"

namespace upmoe::model {
namespace {

at::Tensor apply(const Linear& linear, const at::Tensor& x) {
  return ops::linear(x, linear.weight_OI, linear.bias_O);
}

// Which of S positions each of the last T sees, [B or 1, 1, T, S]; undefined where ops::attention's own rule
// is right.
at::Tensor make_mask(const Model& model, const Input& input, std::int64_t S) {
  const std::int64_t T = input.token_BT.size(1);
  const auto& window = model.config.llama.sliding_window;
  const bool windowed = window && *window < S;
  if (!input.document_BT.defined() && !windowed && (T == S || T == 1)) return {};
  const at::Tensor key_S = at::arange(S, input.token_BT.options()),
                   query_T1 = key_S.narrow(0, S - T, T).unsqueeze(1);
  at::Tensor mask = (key_S <= query_T1);
  if (windowed) mask = mask & (key_S > query_T1 - *window);
  mask = mask.unsqueeze(0).unsqueeze(0);
  if (!input.document_BT.defined()) return mask;
  const at::Tensor& document = input.document_BT;
  return mask & (document.unsqueeze(2) == document.unsqueeze(1)).unsqueeze(1);
}

// The sum that all layers add to stays in float32 beside 16-bit arithmetic: with a rounding after each of its
// 2L additions, perplexity would move by some thousandths.
at::ScalarType residual_dtype(const Model& model) {
  return model.compute == at::kDouble ? at::kDouble : at::kFloat;
}

struct Context {  // what all layers share
  RopeTable rope;
  at::Tensor mask;
  KvCache* cache;
  at::ScalarType compute;
};

// Appends to the cache of a layer and gives all of it.
at::Tensor remember(at::Tensor& kept_BSGD, const at::Tensor& fresh_BTGD, std::int64_t length) {
  const std::int64_t T = fresh_BTGD.size(1);
  kept_BSGD.narrow(1, length, T).copy_(fresh_BTGD);
  return kept_BSGD.narrow(1, 0, length + T);
}

at::Tensor attend(const Model& model, std::size_t l, const at::Tensor& x_BTH, const Context& context) {
  const Attention& attention = model.layers[l].attention;
  const std::int64_t B = x_BTH.size(0), T = x_BTH.size(1), D = model.config.llama.head_dim;
  const auto heads = [&](const Linear& linear) { return apply(linear, x_BTH).view({B, T, -1, D}); };
  const at::Tensor q = ops::rotate(heads(attention.q), context.rope.cos_BTd, context.rope.sin_BTd);
  at::Tensor k = ops::rotate(heads(attention.k), context.rope.cos_BTd, context.rope.sin_BTd);
  at::Tensor v = heads(attention.v);
  if (context.cache != nullptr) {
    k = remember(context.cache->k_BSGD[l], k, context.cache->length);
    v = remember(context.cache->v_BSGD[l], v, context.cache->length);
  }
  return apply(attention.o, ops::attention(q, k, v, context.mask).reshape({B, T, -1}));
}

at::Tensor run(const Ffn& ffn, std::int64_t layer, const at::Tensor& x_NH, const Watch& watch) {
  const at::Tensor neuron_NF = ops::swiglu(apply(ffn.gate, x_NH), apply(ffn.up, x_NH));
  at::Tensor y_NH = apply(ffn.down, neuron_NF);
  if (watch) watch({layer, x_NH, neuron_NF, y_NH, {}, nullptr});
  return y_NH;
}

at::Tensor run(const Moe& moe, std::int64_t layer, const at::Tensor& x_NH, const Watch& watch) {
  // In float32 whatever the model computes in: rounded logits would send tokens elsewhere.
  const at::Tensor logits_NE = ops::linear(x_NH.to(at::kFloat), moe.router_EH);
  const routing::Routing routing = moe.router->route(logits_NE);
  at::Tensor y_NH = ops::experts(x_NH, routing.token_N, routing.expert_N, routing.weight_N, moe.experts);
  if (watch) watch({layer, x_NH, {}, y_NH, logits_NE, &routing});
  return y_NH;
}

void check(const Model& model, const Input& input, const KvCache* cache) {
  const std::int64_t T = input.token_BT.size(1);
  require(cache == nullptr || !input.document_BT.defined(), "documents can't be told apart in a cache");
  require(cache == nullptr || cache->length + T <= cache->k_BSGD.at(0).size(1),
          "the cache has room for {} positions, and {} are asked for",
          cache == nullptr ? 0 : cache->k_BSGD[0].size(1), cache == nullptr ? 0 : cache->length + T);
  if (input.token_BT.is_cpu() && input.token_BT.numel() > 0) {
    const auto least = input.token_BT.min().item<std::int64_t>(),
               most = input.token_BT.max().item<std::int64_t>();
    require(least >= 0 && most < model.config.llama.vocab_size, "token {} is not in the vocabulary of {}",
            least < 0 ? least : most, model.config.llama.vocab_size);
  }
}

Context make_context(const Model& model, const Input& input, KvCache* cache, at::ScalarType compute) {
  const std::int64_t T = input.token_BT.size(1), before = cache == nullptr ? 0 : cache->length;
  const at::Tensor position = input.position_BT.defined()
                                  ? input.position_BT
                                  : at::arange(before, before + T, input.token_BT.options()).unsqueeze(0);
  return {rope_table(model.config.llama, position), make_mask(model, input, before + T), cache, compute};
}

at::Tensor run_layer(const Model& model, std::size_t l, const at::Tensor& x_BTH, const Context& context,
                     const Watch& watch) {
  const Layer& layer = model.layers[l];
  const auto norm = [&](const at::Tensor& x, const at::Tensor& weight_H) {
    return ops::rms_norm(x, weight_H, model.config.llama.rms_norm_eps).to(context.compute);
  };
  const at::Tensor y_BTH = x_BTH + attend(model, l, norm(x_BTH, layer.attention_norm_H), context);
  const at::Tensor normed_NH = norm(y_BTH, layer.ffn_norm_H).flatten(0, 1);
  const at::Tensor ffn_NH = std::visit(
      [&](const auto& ffn) { return run(ffn, static_cast<std::int64_t>(l), normed_NH, watch); }, layer.ffn);
  return y_BTH + ffn_NH.view_as(y_BTH);
}

}  // namespace

KvCache make_cache(const Model& model, std::int64_t sequences, std::int64_t positions) {
  const DenseConfig& config = model.config.llama;
  KvCache out;
  for (std::size_t l = 0; l < model.layers.size(); ++l)
    for (auto* kept : {&out.k_BSGD, &out.v_BSGD})
      kept->push_back(at::empty({sequences, positions, config.num_kv_heads, config.head_dim},
                                at::TensorOptions(model.compute).device(model.device)));
  return out;
}

at::Tensor hidden_states(const Model& model, const Input& input, KvCache* cache, const Watch& watch) {
  check(model, input, cache);
  const Context context = make_context(model, input, cache, model.compute);
  at::Tensor x = at::embedding(model.embedding_VH, input.token_BT).to(residual_dtype(model));
  for (std::size_t l = 0; l < model.layers.size(); ++l) x = run_layer(model, l, x, context, watch);
  if (cache != nullptr) cache->length += input.token_BT.size(1);
  return final_norm(model, x, model.compute);
}

at::Tensor embed(const Model& model, const Input& input) {
  check(model, input, nullptr);
  return at::embedding(model.embedding_VH, input.token_BT).to(residual_dtype(model));
}

at::Tensor run_layer(const Model& model, std::size_t l, const Input& input, const at::Tensor& x_BTH,
                     at::ScalarType compute, const Watch& watch) {
  return run_layer(model, l, x_BTH, make_context(model, input, nullptr, compute), watch);
}

at::Tensor final_norm(const Model& model, const at::Tensor& x_BTH, at::ScalarType compute) {
  return ops::rms_norm(x_BTH, model.norm_H, model.config.llama.rms_norm_eps).to(compute);
}

at::Tensor ffn(const Model& model, std::int64_t layer, const at::Tensor& in_NH) {
  return std::visit([&](const auto& it) { return run(it, layer, in_NH, {}); },
                    model.layers.at(static_cast<std::size_t>(layer)).ffn);
}

at::Tensor logits(const Model& model, const at::Tensor& hidden) {
  return ops::linear(hidden, model.head_VH).to(at::kFloat);
}

}  // namespace upmoe::model
