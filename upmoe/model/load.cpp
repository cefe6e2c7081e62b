#include "upmoe/model/load.h"

#include <ATen/ops/from_blob.h>

#include <map>

#include "upmoe/base/error.h"
#include "upmoe/base/plugin.h"
#include "upmoe/checkpoint/dense_model.h"
#include "upmoe/checkpoint/match_weights.h"
#include "upmoe/routing/registry.h"

namespace upmoe::model {
namespace {

// A weight of the model, and where it goes.
struct Slot {
  std::string name;
  std::vector<std::int64_t> shape;
  at::Tensor* value;
};

constexpr std::string_view kHead = "lm_head.weight", kEmbedding = "model.embed_tokens.weight";

// By the name inside a layer. Source of the names: checkpoint/dense_weights.
at::Tensor* place_in_layer(Layer& layer, const std::string& name) {
  Attention& a = layer.attention;
  std::map<std::string, at::Tensor*> places = {{"input_layernorm.weight", &layer.attention_norm_H},
                                               {"post_attention_layernorm.weight", &layer.ffn_norm_H},
                                               {"self_attn.q_proj.weight", &a.q.weight_OI},
                                               {"self_attn.q_proj.bias", &a.q.bias_O},
                                               {"self_attn.k_proj.weight", &a.k.weight_OI},
                                               {"self_attn.k_proj.bias", &a.k.bias_O},
                                               {"self_attn.v_proj.weight", &a.v.weight_OI},
                                               {"self_attn.v_proj.bias", &a.v.bias_O},
                                               {"self_attn.o_proj.weight", &a.o.weight_OI},
                                               {"self_attn.o_proj.bias", &a.o.bias_O}};
  if (auto* ffn = std::get_if<Ffn>(&layer.ffn))
    places.insert({{"mlp.gate_proj.weight", &ffn->gate.weight_OI},
                   {"mlp.gate_proj.bias", &ffn->gate.bias_O},
                   {"mlp.up_proj.weight", &ffn->up.weight_OI},
                   {"mlp.up_proj.bias", &ffn->up.bias_O},
                   {"mlp.down_proj.weight", &ffn->down.weight_OI},
                   {"mlp.down_proj.bias", &ffn->down.bias_O}});
  return places.at(name);
}

void add_experts(std::vector<Slot>& out, const Model& model, Moe& moe, std::int64_t l) {
  const Target& target = *model.config.moe->target;
  const std::int64_t H = model.config.llama.hidden_size, F = model.config.moe->shape.expert_size;
  out.push_back({weight_name(target.router, l), {model.config.moe->shape.experts, H}, &moe.router_EH});
  for (const Matrix matrix : kMatrices) {
    auto& experts = matrix == Matrix::gate ? moe.experts.gate_FH
                    : matrix == Matrix::up ? moe.experts.up_FH
                                           : moe.experts.down_HF;
    const std::vector<std::int64_t> shape = matrix == Matrix::down ? std::vector{H, F} : std::vector{F, H};
    for (std::size_t e = 0; e < experts.size(); ++e)
      out.push_back(
          {weight_name(target.expert.of(matrix), l, static_cast<std::int64_t>(e)), shape, &experts[e]});
  }
}

// experts: with the routers and one slot for each matrix of an expert.
std::vector<Slot> slots(Model& model, bool experts = true) {
  std::vector<Slot> out;
  for (const DenseWeight& weight : dense_weights(model.config.llama)) {
    if (weight.layer < 0) {
      at::Tensor* value = weight.name == kEmbedding ? &model.embedding_VH
                          : weight.name == kHead    ? &model.head_VH
                                                    : &model.norm_H;
      out.push_back({weight.name, weight.shape, value});
      continue;
    }
    Layer& layer = model.layers[static_cast<std::size_t>(weight.layer)];
    auto* moe = std::get_if<Moe>(&layer.ffn);
    if (moe == nullptr || weight.role != Role::matrix) {
      const std::string inside = weight.name.substr(fmt::format("model.layers.{}.", weight.layer).size());
      out.push_back({weight.name, weight.shape, place_in_layer(layer, inside)});
    }
    if (experts && moe != nullptr && weight.role == Role::ffn_norm)
      add_experts(out, model, *moe, weight.layer);
  }
  return out;
}

at::ScalarType torch_dtype(Dtype dtype) {
  return dtype == Dtype::f32 ? at::kFloat : dtype == Dtype::bf16 ? at::kBFloat16 : at::kHalf;
}

class Loader {
 public:
  Loader(const Folder& folder, const LoadOptions& options)
      : options_(options),
        where_(printable(folder.path().string())),
        files_(std::make_shared<Weights>(folder)) {}

  // Before anything is made that is as large as config.json says.
  void require_enough_weights(const ModelConfig& config) const {
    if (!config.moe) return;
    const std::int64_t L = config.llama.num_layers, E = config.moe->shape.experts,
                       least = is_stacked(config) ? 2 * L : 3 * E * L;
    require(std::ssize(files_->entries()) > least,
            "{}: {} weights are there, and a model of {} layers with {} experts has more than {}; is "
            "config.json that of another model?",
            where_, files_->entries().size(), L, E, least);
  }

  void fill(Model& model) {
    model.files = files_;
    if (is_stacked(model.config))
      take_stacked(model);
    else
      take(slots(model), model);
  }

 private:
  bool is_stacked(const ModelConfig& config) const {
    return config.moe && files_->entries().contains(weight_name(config.moe->target->stacked.gate_up, 0));
  }

  // One weight, in the mapped file, which it keeps open; or where and as the options want it.
  at::Tensor tensor(const Weights::Entry& entry) const {
    const std::span<const std::byte> bytes = entry.data();
    const at::Tensor mapped = at::from_blob(
        const_cast<std::byte*>(bytes.data()), entry.info->shape, [keep = files_](void* /*data*/) {},
        at::TensorOptions(torch_dtype(entry.info->dtype)));
    const at::ScalarType dtype = options_.dtype.value_or(mapped.scalar_type());
    return mapped.to(mapped.options().device(options_.device).dtype(dtype));
  }

  std::vector<Weights::Entry> match(const std::vector<ExpectedWeight>& expected, bool tied) const {
    return match_weights(
        *files_, expected, where_,
        [tied](const std::string& name) {
          return name.ends_with("rotary_emb.inv_freq") || (tied && name == kHead);
        },
        [](const std::vector<std::string>& /*strangers*/) {});
  }

  void take(const std::vector<Slot>& wanted, const Model& model) const {
    std::vector<ExpectedWeight> expected;
    for (const Slot& slot : wanted) expected.push_back({slot.name, slot.shape});
    const auto entries = match(expected, model.config.llama.tie_word_embeddings);
    for (std::size_t i = 0; i < wanted.size(); ++i) *wanted[i].value = tensor(entries[i]);
  }

  // The experts of a layer are views into one tensor: gate_up [E, 2F, H], gate rows first, and down [E, H,
  // F].
  void take_stacked(Model& model) const {
    const Target& target = *model.config.moe->target;
    const auto [E, K, F] = model.config.moe->shape;
    const std::int64_t H = model.config.llama.hidden_size;
    std::vector<at::Tensor> stacked(2 * model.layers.size());
    std::vector<Slot> stored = slots(model, /*experts=*/false);
    for (std::size_t l = 0; l < model.layers.size(); ++l) {
      const auto layer = static_cast<std::int64_t>(l);
      stored.push_back({weight_name(target.stacked.gate_up, layer), {E, 2 * F, H}, &stacked[2 * l]});
      stored.push_back({weight_name(target.stacked.down, layer), {E, H, F}, &stacked[2 * l + 1]});
      stored.push_back(
          {weight_name(target.stacked.router, layer), {E, H}, &std::get<Moe>(model.layers[l].ffn).router_EH});
    }
    take(stored, model);
    for (std::size_t l = 0; l < model.layers.size(); ++l) {
      auto& experts = std::get<Moe>(model.layers[l].ffn).experts;
      for (std::int64_t e = 0; e < E; ++e) {
        const auto i = static_cast<std::size_t>(e);
        experts.gate_FH[i] = stacked[2 * l][e].narrow(0, 0, F);
        experts.up_FH[i] = stacked[2 * l][e].narrow(0, F, F);
        experts.down_HF[i] = stacked[2 * l + 1][e];
      }
    }
  }

  const LoadOptions& options_;
  std::string where_;
  std::shared_ptr<Weights> files_;
};

// `key`: of the layer, for what a router draws when it is made.
Moe empty_moe(const ModelConfig& model, const Rng& key, at::Device device) {
  const MoeConfig& config = *model.moe;
  const auto E = static_cast<std::size_t>(config.shape.experts);
  const routing::RouterShape shape{.experts = config.shape.experts,
                                   .per_token = config.shape.per_token,
                                   .hidden = model.llama.hidden_size,
                                   .vocabulary = model.llama.vocab_size,
                                   .key = key,
                                   .device = device};
  Moe out;
  out.experts = {std::vector<at::Tensor>(E), std::vector<at::Tensor>(E), std::vector<at::Tensor>(E)};
  out.router = find_plugin(routing::routers(), config.router, "router").make(shape, config.router_options);
  return out;
}

}  // namespace

Model load(const std::filesystem::path& path, const LoadOptions& options) {
  const Folder folder(path);
  Model model;
  model.config = read_model_config(folder);
  model.where = printable(path.string()) + ": ";
  if (options.router) {
    require_asked(model.config.moe.has_value(), "{}is a dense model, which has no router to replace",
                  model.where);
    model.config.moe->router = options.router->name;
    model.config.moe->router_options = options.router->values;
  }
  model.device = options.device;
  Loader loader(folder, options);
  loader.require_enough_weights(model.config);
  model.layers.resize(static_cast<std::size_t>(model.config.llama.num_layers));
  if (model.config.moe)
    for (std::size_t l = 0; l < model.layers.size(); ++l)
      model.layers[l].ffn =
          empty_moe(model.config, Rng(options.router_seed).at("router").at(l), options.device);
  else
    static_cast<void>(DenseModel(path));  // says what is wrong with a source as `upmoe convert` does
  loader.fill(model);
  if (model.config.llama.tie_word_embeddings) model.head_VH = model.embedding_VH;
  model.compute = options.compute.value_or(model.embedding_VH.scalar_type());
  return model;
}

void require_intact(const Model& model) {
  if (model.files) model.files->require_intact();
}

routing::RouterTraits router_traits(const MoeConfig& config) {
  return find_plugin(routing::routers(), config.router, "router")
      .traits({.experts = config.shape.experts, .per_token = config.shape.per_token}, config.router_options);
}

std::vector<NamedWeight> router_state(Model& model) {
  std::vector<NamedWeight> out;
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    auto* moe = std::get_if<Moe>(&model.layers[l].ffn);
    if (moe == nullptr) continue;
    for (const auto& states : {moe->router->parameters(), moe->router->buffers()})
      for (const routing::State& state : states)
        out.push_back({fmt::format("model.layers.{}.router.{}", l, state.name), state.value});
  }
  return out;
}

std::vector<NamedWeight> named_weights(Model& model) {
  std::vector<NamedWeight> out;
  for (const Slot& slot : slots(model)) out.push_back({slot.name, slot.value});
  return out;
}

}  // namespace upmoe::model
