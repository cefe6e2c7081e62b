#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "upmoe/model/config.h"
#include "upmoe/ops/ops.h"
#include "upmoe/routing/router.h"

// Shape letters: B sequences, T positions, N = B*T tokens, S positions attended to, G key-value heads, D head
// size, H hidden size, F neurons of an FFN or an expert, E experts, V vocabulary, I inputs, O outputs.
namespace upmoe::model {

struct Linear {
  at::Tensor weight_OI, bias_O;  // undefined where the model has no bias
};
struct Attention {
  Linear q, k, v, o;
};
struct Ffn {
  Linear gate, up, down;
};
struct Moe {
  at::Tensor router_EH;
  ops::ExpertWeights experts;
  std::unique_ptr<routing::Router> router;
};
struct Layer {
  at::Tensor attention_norm_H, ffn_norm_H;
  Attention attention;
  std::variant<Ffn, Moe> ffn;
};

// A Llama, a Mistral, or one of their Mixtures of Experts: plain tensors, which may lie in a mapped file that
// they keep open. Running it changes nothing in it.
struct Model {
  ModelConfig config;
  std::shared_ptr<const Weights> files;  // that weights may lie in; null for a model that was not loaded
  std::string where;  // what errors of running it begin with: its folder and a colon; empty as above
  at::Tensor embedding_VH;
  std::vector<Layer> layers;
  at::Tensor norm_H;
  at::Tensor head_VH;  // the embedding itself when they are tied
  at::Device device = at::kCPU;
  at::ScalarType compute =
      at::kFloat;  // dtype of the activations; weights of another are brought to it in passing
};

// Keys and values of the positions seen so far.
struct KvCache {
  std::vector<at::Tensor> k_BSGD, v_BSGD;  // one a layer, room for S positions
  std::int64_t length = 0;                 // of them filled
};
KvCache make_cache(const Model& model, std::int64_t sequences, std::int64_t positions);

// What routers draw from where they draw: in training.
struct Draws {
  bool training = false;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t first_sequence = 0;  // number of the first sequence of this batch within the step
};

struct Input {
  at::Tensor token_BT;     // int64
  at::Tensor position_BT;  // int64; undefined: 0 to T-1, or on from what the cache holds
  // int64; a position sees itself and those before it that have the same number: documents, -1 for padding,
  // say. Undefined: all is one document. Not together with a cache.
  at::Tensor document_BT;
  Draws draws;
  std::vector<at::Tensor> replay_TM;  // of each layer: chosen_TM of an earlier routing; empty: none
};

// What happened in the FFN of a layer.
struct FfnSeen {
  std::int64_t layer;
  const at::Tensor& in_NH;          // after the norm: what the router and the experts see
  const at::Tensor& neuron_NF;      // silu(gate) * up of a dense FFN, in run_layer() below; else undefined
  const at::Tensor& out_NH;         // before it is added to the residual
  const routing::Routing* routing;  // null for a dense FFN
};
using Watch = std::function<void(const FfnSeen&)>;

// How many tokens may go through the model at once, at most `wanted`, for a layer's activations to take some
// 2 GB.
std::int64_t tokens_at_once(const ModelConfig& config, std::int64_t wanted);

// The last hidden states, after the final norm: [B, T, H] in the dtype of the arithmetic.
at::Tensor hidden_states(const Model& model, const Input& input, KvCache* cache = nullptr,
                         const Watch& watch = {});

// The FFN of one layer alone: of what it sees after its norm, what it adds to the residual.
at::Tensor ffn(const Model& model, std::int64_t layer, const at::Tensor& in_NH);

// The steps of hidden_states without a cache, for what can't keep the activations of all layers at once:
// embed, each layer, final_norm. `compute`: dtype of the arithmetic; x, which all layers add to, is float32.
at::Tensor embed(const Model& model, const Input& input);
at::Tensor run_layer(const Model& model, std::size_t l, const Input& input, const at::Tensor& x_BTH,
                     at::ScalarType compute, const Watch& watch = {});
at::Tensor final_norm(const Model& model, const at::Tensor& x_BTH, at::ScalarType compute,
                      bool training = false);

// float32 [..., V], of hidden states. For a loss use ops::token_nll, which never makes this table.
at::Tensor logits(const Model& model, const at::Tensor& hidden);

}  // namespace upmoe::model
