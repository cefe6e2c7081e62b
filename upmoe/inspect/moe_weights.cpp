// E: experts, F: neurons of one, H: hidden size. gate_FH, up_FH, down_HF.
#include "upmoe/inspect/moe_weights.h"

#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/checkpoint/json.h"

namespace upmoe {
namespace {

constexpr std::int64_t kMostSize = 1 << 30;  // of H and F: products of two fit

}  // namespace

MoeWeights::MoeWeights(const Weights& weights, const Target& target, const nlohmann::json& config,
                       std::string where)
    : weights_(weights), target_(target), shape_(target.shape(config)), where_(std::move(where)) {
  H_ = config_number(config, "hidden_size", 4096);
  num_layers_ = config_number(config, "num_hidden_layers", 32);
  require(shape_.experts >= 1 && shape_.experts <= 1'000'000 && shape_.per_token >= 1 &&
              shape_.per_token <= shape_.experts && shape_.expert_size >= 1 &&
              shape_.expert_size <= kMostSize && H_ <= kMostSize && H_ >= 1 && num_layers_ >= 1 &&
              num_layers_ <= 10'000,
          "{}: config.json: {} experts, top-{}, {} neurons, hidden size {} and {} layers don't fit together",
          where_, shape_.experts, shape_.per_token, shape_.expert_size, H_, num_layers_);
  stacked_ = weights.entries().contains(weight_name(target.stacked.gate_up, 0));
}

View MoeWeights::expert(std::int64_t l, std::int64_t e, Matrix matrix) const {
  const std::int64_t E = shape_.experts, F = shape_.expert_size;
  const bool down = matrix == Matrix::down;
  const std::int64_t rows = down ? H_ : F, cols = down ? F : H_;
  if (!stacked_) return find(weight_name(target_.expert.of(matrix), l, e), {rows, cols});
  View all = down ? find(weight_name(target_.stacked.down, l), {E, H_, F})
                  : find(weight_name(target_.stacked.gate_up, l), {E, 2 * F, H_});
  const std::size_t slab = all.bytes.size() / static_cast<std::size_t>(E), size = down ? slab : slab / 2;
  return {all.dtype, rows, cols,
          all.bytes.subspan(static_cast<std::size_t>(e) * slab + (matrix == Matrix::up ? size : 0), size)};
}

View MoeWeights::router(std::int64_t l) const {
  return find(weight_name(stacked_ ? target_.stacked.router : target_.router, l), {shape_.experts, H_});
}

View MoeWeights::ffn_norm(std::int64_t l) const {
  return find(fmt::format("model.layers.{}.post_attention_layernorm.weight", l), {H_});
}

std::vector<std::string> MoeWeights::names(std::int64_t l) const {
  if (stacked_)
    return {weight_name(target_.stacked.router, l), weight_name(target_.stacked.gate_up, l),
            weight_name(target_.stacked.down, l)};
  std::vector<std::string> out = {weight_name(target_.router, l)};
  for (const Matrix matrix : kMatrices)
    for (std::int64_t e = 0; e < shape_.experts; ++e)
      out.push_back(weight_name(target_.expert.of(matrix), l, e));
  return out;
}

View MoeWeights::find(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const auto it = weights_.entries().find(name);
  if (it == weights_.entries().end())
    fail("{}: has no '{}', which a {} of this configuration must have", where_, name, target_.model_type);
  const TensorInfo& info = *it->second.info;
  require(info.shape == shape, "{}: '{}' has shape {}, config.json says {}", where_, name,
          shape_text(info.shape), shape_text(shape));
  require(is_float_weight(info.dtype), "{}: '{}' is {}, and only F32, BF16 and F16 are supported", where_,
          name, upmoe::name(info.dtype));
  return {info.dtype, shape.size() == 1 ? 1 : shape[0], shape.back(), it->second.data()};
}

}  // namespace upmoe
