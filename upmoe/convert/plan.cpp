#include "upmoe/convert/plan.h"

#include <algorithm>
#include <cctype>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/side_files.h"
#include "upmoe/convert/allowances.h"
#include "upmoe/convert/schedule.h"
#include "upmoe/io/block_file.h"
#include "upmoe/router_init/registry.h"
#include "upmoe/target/registry.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {
namespace {

constexpr std::int64_t kMaxExperts = 4096;  // far above any published model; bounds the size of a plan

void check_shape(const Plan& plan) {
  const MoeShape& shape = plan.shape;
  require_asked(shape.experts >= 1 && shape.experts <= kMaxExperts, "--experts is {}, expected 1 to {}",
                shape.experts, kMaxExperts);
  require_asked(shape.per_token >= 1 && shape.per_token <= shape.experts,
                "--top-k is {}, expected 1 to the number of experts, {}", shape.per_token, shape.experts);
}

// What the source has and the target has no place for.
void check_target(const Plan& plan) {
  const DenseConfig& config = plan.source.config();
  const std::string where = printable(plan.request.source);
  require(!config.mlp_bias, "{}: the FFN has biases (mlp_bias), which no target supports", where);
  require(!config.attention_bias || plan.target->attention_bias,
          "{}: attention has biases (attention_bias), which target '{}' does not support", where,
          plan.target->name);
}

void collect_notes(Plan& plan) {
  const DenseConfig& config = plan.source.config();
  std::vector<std::string> unknown;
  // The names go into the model card as well, where a stranger's markup has no business.
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
  };
  for (const std::string& key : config.unknown)
    unknown.push_back(std::ranges::all_of(key, is_plain) ? key : "(a name that is no name)");
  if (!unknown.empty())
    plan.notes.push_back("keys of config.json that upmoe doesn't know and doesn't carry: " + join(unknown));
  for (std::string& note : side_file_notes(plan.source.folder())) plan.notes.push_back(std::move(note));
  for (std::string& caveat : plan.target->caveats(config)) plan.notes.push_back(std::move(caveat));
  const bool half = plan.torch_dtype != "float32";
  if (const std::int64_t step = half ? 8 : 4;
      plan.shape.expert_size % step != 0 || config.hidden_size % step != 0)
    plan.notes.push_back(
        fmt::format("hidden size {} or expert size {} is not a multiple of {}: transformers 5 needs "
                    "set_experts_implementation(\"eager\") to run it",
                    config.hidden_size, plan.shape.expert_size, step));
  if (plan.shape.per_token == 1 && plan.target->weights_sum_to_one)
    plan.notes.push_back(
        "with --top-k 1 and renormalised weights the language loss gives the router no gradient");
  if (!plan.router_init->danger().empty())
    plan.notes.push_back(fmt::format("router initialisation '{}' was allowed: {}", plan.request.router_init,
                                     plan.router_init->danger()));
}

// Every tensor of the output, in the order in which the data is made. Experts go matrix by matrix, so that
// one dense matrix at a time has to be in memory.
std::vector<PlannedTensor> list_tensors(const Plan& plan) {
  std::vector<PlannedTensor> out;
  const auto& weights = plan.source.weights();
  const auto add = [&](std::string name, Dtype dtype, std::vector<std::int64_t> shape, Origin origin) {
    const std::uint64_t bytes = tensor_bytes(dtype, shape, name);
    out.push_back({{std::move(name), dtype, std::move(shape), 0, bytes}, origin});
  };
  const auto add_experts = [&](std::size_t w) {
    const DenseWeight& is = weights[w].is;
    const std::int64_t H = plan.source.config().hidden_size, F = plan.shape.expert_size;
    const bool down = is.matrix == Matrix::down;
    for (std::int64_t e = 0; e < plan.shape.experts; ++e)
      add(weight_name(plan.target->expert.of(is.matrix), is.layer, e), weights[w].stored.info->dtype,
          {down ? H : F, down ? F : H}, {Origin::Kind::expert, w, is.layer, e});
  };
  for (std::size_t w = 0; w < weights.size(); ++w) {
    const DenseWeight& is = weights[w].is;
    if (is.role == Role::matrix) {
      add_experts(w);
      continue;
    }
    add(is.name, weights[w].stored.info->dtype, is.shape, {Origin::Kind::dense, w, is.layer, -1});
    // Right behind the embedding, while its pages are at hand.
    if (is.role == Role::embedding && plan.source.config().tie_word_embeddings && !plan.tied)
      add("lm_head.weight", weights[w].stored.info->dtype, is.shape, {Origin::Kind::dense, w, -1, -1});
    if (is.role == Role::ffn_norm)
      add(weight_name(plan.target->router, is.layer), Dtype::f32,
          {plan.shape.experts, plan.source.config().hidden_size}, {Origin::Kind::router, w, is.layer, -1});
  }
  return out;
}

// Fills shards one after the other. Wider types go first within a shard, so that every tensor lies at a
// multiple of its element's size (torch can't view one that doesn't).
void lay_out(Plan& plan, std::vector<PlannedTensor> tensors) {
  std::uint64_t room = 0;
  for (PlannedTensor& tensor : tensors) {
    const std::uint64_t bytes = tensor.info.bytes();
    plan.data_bytes += bytes;
    if (plan.files.empty() || bytes > room) {
      plan.files.emplace_back();
      room = plan.request.max_shard_bytes;
    }
    room -= std::min(room, bytes);
    plan.files.back().tensors.push_back(std::move(tensor));
  }
  for (std::size_t f = 0; f < plan.files.size(); ++f) {
    PlannedFile& file = plan.files[f];
    file.name = plan.files.size() == 1
                    ? "model.safetensors"
                    : fmt::format("model-{:05}-of-{:05}.safetensors", f + 1, plan.files.size());
    std::ranges::stable_sort(file.tensors, std::greater(),
                             [](const PlannedTensor& t) { return bits(t.info.dtype); });
    std::uint64_t at = 0;
    std::vector<TensorInfo> infos;
    for (PlannedTensor& tensor : file.tensors) {
      tensor.info.end = at + tensor.info.bytes();
      tensor.info.begin = at;
      at = tensor.info.end;
      infos.push_back(tensor.info);
    }
    file.header = safetensors_header(infos);
    file.bytes = file.header.size() + at;
    plan.file_bytes += file.bytes;
  }
}

// Routers are drawn whole, in float32, and are there as long as a block of theirs is in one of the buffers.
std::uint64_t routers_in_memory(const Plan& plan) {
  const auto one = static_cast<std::uint64_t>(plan.shape.experts * plan.source.config().hidden_size) * 4;
  const auto layers = static_cast<std::uint64_t>(plan.source.config().num_layers);
  return std::min(layers * one, 2 * (kPoolBlocks * kBlockBytes + one));
}

// Tokenizer and other side files are held from the start to the end.
std::uint64_t side_files_in_memory(const Plan& plan) {
  std::uint64_t bytes = 0;
  for (const SideFile& file : side_files(plan.source.folder())) bytes += file.text.size();
  return bytes;
}

void forecast(Plan& plan) {
  const auto count = [](const TensorInfo& info) {
    return info.bytes() * 8 / static_cast<std::uint64_t>(bits(info.dtype));
  };
  std::uint64_t experts = 0, headers = 0;
  for (const PlannedFile& file : plan.files) {
    headers += file.header.size();
    for (const PlannedTensor& tensor : file.tensors) {
      plan.parameters += count(tensor.info);
      if (tensor.origin.kind == Origin::Kind::expert) experts += count(tensor.info);
    }
  }
  const auto E = static_cast<std::uint64_t>(plan.shape.experts),
             K = static_cast<std::uint64_t>(plan.shape.per_token);
  plan.active_parameters = plan.parameters - experts / E * (E - K);
  // The program and its plan, the block buffers, and what of the source is in memory at a time.
  const Demand schedule = demand(plan);
  plan.peak_memory = (24u << 20) + 4 * headers + schedule.bookkeeping +
                     (kPoolBlocks + schedule.slots) * kBlockBytes + routers_in_memory(plan) +
                     side_files_in_memory(plan);
}

}  // namespace

Rng layer_key(const Plan& plan, std::int64_t layer) { return layer_key(plan.request.seed, layer); }

Rng weight_key(const Plan& plan, const DenseWeight& weight) { return weight_key(plan.request.seed, weight); }

Plan make_plan(const ConvertRequest& request) {
  const MethodInfo& method = find_plugin(upcycle::methods(), request.method, "upcycling method");
  const RouterInitInfo& router =
      find_plugin(router_init::router_inits(), request.router_init, "router initialisation");
  const Target& target = find_plugin(target::targets(), request.target, "target");
  check_allowed(request);
  Plan plan{.request = request,
            .source = DenseModel(request.folder),
            .method = method.make(request.method_options),
            .router_init = router.make(request.router_options),
            .target = &target};
  plan.method_options = method.resolve(request.method_options);
  plan.router_options = router.resolve(request.router_options);
  if (const std::string danger = plan.router_init->danger();
      !danger.empty() && !allows(request, "router-init"))
    throw UsageError(
        fmt::format("router initialisation '{}': {}; choose another, or pass --allow router-init",
                    request.router_init, danger));

  const DenseConfig& config = plan.source.config();
  plan.shape = {.experts = request.experts, .per_token = request.per_token};
  plan.tied = config.tie_word_embeddings && request.keep_tied;
  check_shape(plan);
  plan.shape = plan.method->shape(plan.shape, config);
  check_target(plan);
  plan.torch_dtype = plan.source.torch_dtype();

  // What a router start can't do in this place is said before anything is made.
  plan.router_init->weight_EH({.E = plan.shape.experts, .H = config.hidden_size, .gamma_length = 1.0},
                              Rng(request.seed));

  lay_out(plan, list_tensors(plan));
  forecast(plan);
  plan.not_exact_because = plan.method->changes_function();
  if (plan.not_exact_because.empty() && !target.weights_sum_to_one)
    plan.not_exact_because =
        fmt::format("the weights of a token's experts don't sum to one in target '{}'", target.name);
  collect_notes(plan);
  return plan;
}

}  // namespace upmoe
