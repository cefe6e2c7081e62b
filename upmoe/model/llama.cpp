// P, W: queries of a piece, positions of a window.
#include "upmoe/model/llama.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>

#include "upmoe/base/error.h"
#include "upmoe/model/rope.h"
#include "upmoe/ops/largest.h"
#include "upmoe/ops/tiles.h"

namespace upmoe::model {
namespace {

at::Tensor apply(const Linear& linear, const at::Tensor& x) {
  return ops::linear(x, linear.weight_OI, linear.bias_O);
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kQueries = 512;              // that see a window at once
constexpr std::int64_t kMostNumbers = 1 << 26;      // of queries, or of neurons, at once
constexpr std::int64_t kMostActivations = 1 << 29;  // of a layer, about, unless one window has more

// Which of S positions each of the last T sees, [B or 1, 1, T, S]; undefined where ops::attention's own rule
// or the window say it.
at::Tensor make_mask(const Input& input, std::int64_t S, bool windowed) {
  const std::int64_t T = input.token_BT.size(1);
  if (!input.document_BT.defined() && (windowed || T == S || T == 1)) return {};
  const at::Tensor key_S = at::arange(S, input.token_BT.options()),
                   query_T1 = key_S.narrow(0, S - T, T).unsqueeze(1);
  const at::Tensor mask = (key_S <= query_T1).unsqueeze(0).unsqueeze(0);
  if (!input.document_BT.defined()) return mask;
  const at::Tensor& document = input.document_BT;
  return mask & (document.unsqueeze(2) == document.unsqueeze(1)).unsqueeze(1);
}

// What P queries one after the other see of the W - 1 keys before the first of them and of their own; W is
// the window. Undefined where the window reaches to the beginning.
at::Tensor make_window(const Model& model, const Input& input, std::int64_t S) {
  const auto& window = model.config.llama.sliding_window;
  if (!window || *window >= S) return {};
  const std::int64_t P = std::min(kQueries, input.token_BT.size(1));
  const at::Tensor key = at::arange(P + *window - 1, input.token_BT.options()),
                   query_P1 = key.narrow(0, 0, P).unsqueeze(1);
  return (key >= query_P1) & (key < query_P1 + *window);
}

// The sum that all layers add to stays in float32 beside 16-bit arithmetic: with a rounding after each of its
// 2L additions, perplexity would move by some thousandths.
at::ScalarType residual_dtype(const Model& model) {
  return model.compute == at::kDouble ? at::kDouble : at::kFloat;
}

struct FfnContext {  // what the FFNs of all layers share
  const Watch& watch;
  bool keeps_neurons = false;              // of all tokens, for who watches
  routing::Call call = {};                 // what routers are told beside what they see
  std::vector<at::Tensor> replay_TM = {};  // of each layer, or empty
};

struct Context {  // what all layers share
  RopeTable rope;
  at::Tensor mask, window;
  KvCache* cache;
  at::ScalarType compute;
  FfnContext ffn;
};

// Appends to the cache of a layer and gives all of it.
at::Tensor remember(const at::Tensor& kept_BSGD, const at::Tensor& fresh_BTGD, std::int64_t length) {
  const std::int64_t T = fresh_BTGD.size(1);
  kept_BSGD.narrow(1, length, T).copy_(fresh_BTGD);
  return kept_BSGD.narrow(1, 0, length + T);
}

// Softmax kernels, and norms that overflow, give plain numbers where there are none: so what goes in is
// looked at. Elsewhere than on a CPU that would have to be waited for. An error; in training false, and the
// caller makes NaN of its result, so that the loss is not finite and the step can be skipped.
bool is_finite(const Model& model, const at::Tensor& x, double squares, std::int64_t layer, const char* what,
               bool training) {
  if (!x.is_cpu()) return true;
  const double most = ops::largest(x);
  if (most * most * squares <= std::numeric_limits<float>::max()) return true;
  if (training) return false;
  fail(
      "{}{}: the {} are not finite, or too large for float32: the weights or the activations have overflowed",
      model.where, layer < 0 ? "after the last layer" : fmt::format("layer {}", layer), what);
}

// The attention of T queries, the last of S positions.
at::Tensor see(const at::Tensor& q_BTQD, const at::Tensor& k_BSGD, const at::Tensor& v_BSGD,
               const Context& context) {
  if (!context.window.defined()) return ops::attention(q_BTQD, k_BSGD, v_BSGD, context.mask);
  const std::int64_t T = q_BTQD.size(1), S = k_BSGD.size(1),
                     before = context.window.size(1) - context.window.size(0);
  std::vector<at::Tensor> out;
  for (std::int64_t begin = 0; begin < T; begin += kQueries) {
    const std::int64_t P = std::min(kQueries, T - begin), first = S - T + begin,
                       seen = std::min(before, first);
    at::Tensor mask;  // one query sees all of them
    if (P > 1 || context.mask.defined())
      mask = context.window.narrow(0, 0, P).narrow(1, before - seen, seen + P).unsqueeze(0).unsqueeze(0);
    if (context.mask.defined())
      mask = mask & context.mask.narrow(2, begin, P).narrow(3, first - seen, seen + P);
    const auto keys = [&](const at::Tensor& x) { return x.narrow(1, first - seen, seen + P); };
    out.push_back(ops::attention(q_BTQD.narrow(1, begin, P), keys(k_BSGD), keys(v_BSGD), mask));
  }
  return out.size() == 1 ? out.front() : at::cat(out, /*dim=*/1);
}

// Some heads of a projection to q, k or v, and what of o belongs to them.
Linear rows(const Linear& all, ops::Range heads, std::int64_t D) {
  if (heads.size * D == all.weight_OI.size(0)) return all;
  const auto part = [&](const at::Tensor& x) {
    return x.defined() ? x.narrow(0, heads.begin * D, heads.size * D) : x;
  };
  return {part(all.weight_OI), part(all.bias_O)};
}
Linear columns(const Linear& all, ops::Range heads, std::int64_t D) {
  if (heads.size * D == all.weight_OI.size(1)) return all;
  return {all.weight_OI.narrow(1, heads.begin * D, heads.size * D),
          heads.begin == 0 ? all.bias_O : at::Tensor()};
}

at::Tensor attend(const Model& model, std::size_t l, const at::Tensor& x_BTH, const Context& context) {
  const Attention& attention = model.layers[l].attention;
  const DenseConfig& config = model.config.llama;
  const std::int64_t B = x_BTH.size(0), T = x_BTH.size(1), D = config.head_dim,
                     group = config.num_heads / config.num_kv_heads,
                     most_heads =
                         std::max<std::int64_t>(1, kMostNumbers / std::max<std::int64_t>(1, B * T * D));
  const auto project = [&](const Linear& linear, ops::Range some) {
    return apply(rows(linear, some, D), x_BTH).view({B, T, some.size, D});
  };
  const auto rotated = [&](const at::Tensor& x) {
    return ops::rotate(x, context.rope.cos_BTd, context.rope.sin_BTd);
  };
  const auto layer = static_cast<std::int64_t>(l);
  const bool training = context.ffn.call.training;
  bool whole = true;
  at::Tensor y_BTH;
  for (const ops::Range g : ops::cut(config.num_kv_heads, std::max<std::int64_t>(1, most_heads / group), 1)) {
    at::Tensor k = rotated(project(attention.k, g)), v = project(attention.v, g);
    whole = is_finite(model, k, static_cast<double>(D), layer, "keys of attention", training) && whole;
    whole = is_finite(model, v, 1, layer, "values of attention", training) && whole;
    if (context.cache != nullptr) {
      k = remember(context.cache->k_BSGD[l].narrow(2, g.begin, g.size), k, context.cache->length);
      v = remember(context.cache->v_BSGD[l].narrow(2, g.begin, g.size), v, context.cache->length);
    }
    for (const ops::Range some :
         ops::cut(g.size * group, std::max(most_heads, g.size > 1 ? g.size * group : 1), 1)) {
      const ops::Range q_heads{g.begin * group + some.begin, some.size};
      const at::Tensor q = rotated(project(attention.q, q_heads));
      whole = is_finite(model, q, static_cast<double>(D), layer, "queries of attention", training) && whole;
      const at::Tensor part_BTH =
          apply(columns(attention.o, q_heads, D), see(q, k, v, context).reshape({B, T, -1}));
      y_BTH = y_BTH.defined() ? y_BTH.to(residual_dtype(model)) + part_BTH : part_BTH;
    }
  }
  return whole ? y_BTH : y_BTH * kNan;
}

at::Tensor run(const Ffn& ffn, std::int64_t layer, const at::Tensor& x_NH, const FfnContext& context) {
  const std::int64_t N = x_NH.size(0),
                     most = context.keeps_neurons
                                ? std::max<std::int64_t>(1, N)
                                : std::max<std::int64_t>(8, kMostNumbers / ffn.gate.weight_OI.size(0));
  at::Tensor neuron_NF;
  std::vector<at::Tensor> y;
  for (std::int64_t begin = 0; begin == 0 || begin < N; begin += most) {
    const at::Tensor x = x_NH.narrow(0, begin, std::min(most, N - begin));
    neuron_NF = ops::swiglu(apply(ffn.gate, x), apply(ffn.up, x));
    y.push_back(apply(ffn.down, neuron_NF));
  }
  at::Tensor y_NH = y.size() == 1 ? y.front() : at::cat(y);
  if (!context.keeps_neurons) neuron_NF.reset();
  if (context.watch) context.watch({layer, x_NH, neuron_NF, y_NH, nullptr});
  return y_NH;
}

at::Tensor run(const Moe& moe, std::int64_t layer, const at::Tensor& x_NH, const FfnContext& context) {
  routing::Call call = context.call;
  call.x_TH = x_NH;
  call.gate_EH = moe.router_EH;
  call.key = call.key.at(static_cast<std::uint64_t>(layer));
  call.where = fmt::format("{}layer {}: ", call.where, layer);
  if (!context.replay_TM.empty()) call.replay_TM = context.replay_TM.at(static_cast<std::size_t>(layer));
  const routing::Routing routing = moe.router->route(call);
  at::Tensor y_NH = ops::experts(x_NH, routing.token_N, routing.expert_N, routing.weight_N, moe.experts);
  if (routing.extra_TH.defined()) y_NH = (y_NH + routing.extra_TH).to(y_NH.scalar_type());
  if (context.watch) context.watch({layer, x_NH, {}, y_NH, &routing});
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

// What routers are told of the tokens, one sequence after the other.
routing::Call make_call(const Model& model, const Input& input, std::int64_t before) {
  routing::Call call;
  call.where = model.where;
  call.token_id_T = input.token_BT.flatten();
  if (input.document_BT.defined()) call.valid_T = (input.document_BT >= 0).flatten();
  for (std::int64_t b = 0; b < input.token_BT.size(0); ++b)
    call.runs.push_back(
        {.sequence = input.draws.first_sequence + b, .position = before, .tokens = input.token_BT.size(1)});
  call.training = input.draws.training;
  call.key = Rng(input.draws.seed).at("router").at(static_cast<std::uint64_t>(input.draws.step));
  return call;
}

Context make_context(const Model& model, const Input& input, KvCache* cache, at::ScalarType compute,
                     bool keeps_neurons, const Watch& watch) {
  const std::int64_t T = input.token_BT.size(1), before = cache == nullptr ? 0 : cache->length;
  const at::Tensor position = input.position_BT.defined()
                                  ? input.position_BT
                                  : at::arange(before, before + T, input.token_BT.options()).unsqueeze(0);
  const at::Tensor window = make_window(model, input, before + T);
  const RopeTable rope = rope_table(model.config.llama, position);
  require(std::isfinite(ops::largest(rope.cos_BTd)) && std::isfinite(ops::largest(rope.sin_BTd)),
          "{}the rotations of the positions (rope) are not finite numbers: theta {}, scaling {}", model.where,
          model.config.llama.rope.theta,
          model.config.llama.rope.scaling.empty() ? "none" : printable(model.config.llama.rope.scaling, 200));
  return {rope,    make_mask(input, before + T, window.defined()),
          window,  cache,
          compute, {watch, keeps_neurons, make_call(model, input, before), input.replay_TM}};
}

at::Tensor run_layer(const Model& model, std::size_t l, const at::Tensor& x_BTH, const Context& context) {
  const Layer& layer = model.layers[l];
  const auto norm = [&](const at::Tensor& x, const at::Tensor& weight_H) {
    const bool whole = is_finite(model, x, static_cast<double>(x.size(-1)), static_cast<std::int64_t>(l),
                                 "sums that go in", context.ffn.call.training);
    return ops::rms_norm(whole ? x : x * kNan, weight_H, model.config.llama.rms_norm_eps).to(context.compute);
  };
  const at::Tensor y_BTH = x_BTH + attend(model, l, norm(x_BTH, layer.attention_norm_H), context);
  const at::Tensor normed_NH = norm(y_BTH, layer.ffn_norm_H).flatten(0, 1);
  const at::Tensor ffn_NH = std::visit(
      [&](const auto& ffn) { return run(ffn, static_cast<std::int64_t>(l), normed_NH, context.ffn); },
      layer.ffn);
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

std::int64_t tokens_at_once(const ModelConfig& config, std::int64_t wanted) {
  const DenseConfig& c = config.llama;
  std::int64_t numbers =
      8 * c.hidden_size + 3 * c.head_dim * (c.num_heads + 2 * c.num_kv_heads);  // of a token
  if (config.moe) numbers += 8 * config.moe->shape.experts + 2 * config.moe->shape.per_token * c.hidden_size;
  return std::clamp<std::int64_t>(kMostActivations / numbers, 1, wanted);
}

at::Tensor hidden_states(const Model& model, const Input& input, KvCache* cache, const Watch& watch) {
  check(model, input, cache);
  const Context context = make_context(model, input, cache, model.compute, /*keeps_neurons=*/false, watch);
  at::Tensor x = at::embedding(model.embedding_VH, input.token_BT).to(residual_dtype(model));
  for (std::size_t l = 0; l < model.layers.size(); ++l) x = run_layer(model, l, x, context);
  if (cache != nullptr) cache->length += input.token_BT.size(1);
  return final_norm(model, x, model.compute, input.draws.training);
}

at::Tensor embed(const Model& model, const Input& input) {
  check(model, input, nullptr);
  return at::embedding(model.embedding_VH, input.token_BT).to(residual_dtype(model));
}

at::Tensor run_layer(const Model& model, std::size_t l, const Input& input, const at::Tensor& x_BTH,
                     at::ScalarType compute, const Watch& watch) {
  return run_layer(model, l, x_BTH,
                   make_context(model, input, nullptr, compute, /*keeps_neurons=*/true, watch));
}

at::Tensor final_norm(const Model& model, const at::Tensor& x_BTH, at::ScalarType compute, bool training) {
  const bool whole =
      is_finite(model, x_BTH, static_cast<double>(x_BTH.size(-1)), /*layer=*/-1, "sums", training);
  return ops::rms_norm(whole ? x_BTH : x_BTH * kNan, model.norm_H, model.config.llama.rms_norm_eps)
      .to(compute);
}

at::Tensor ffn(const Model& model, std::int64_t layer, const at::Tensor& in_NH) {
  const Watch nobody;
  return std::visit([&](const auto& it) { return run(it, layer, in_NH, FfnContext{nobody}); },
                    model.layers.at(static_cast<std::size_t>(layer)).ffn);
}

at::Tensor logits(const Model& model, const at::Tensor& hidden) {
  return ops::linear(hidden, model.head_VH).to(at::kFloat);
}

}  // namespace upmoe::model
