#include "upmoe/model/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe::model {
namespace {

using Json = nlohmann::json;

struct Frequencies {
  at::Tensor value_d;
  double attention_factor = 1.0;
};

// base^(2i/D), float32
at::Tensor wavelengths(double base, std::int64_t D) {
  return at::pow(base, at::arange(0, D, 2, at::TensorOptions(at::kFloat)) / static_cast<double>(D));
}

// A number of the rope_scaling object, where it may be absent or null.
double number(const Json& scaling, const char* key, double preset) {
  const auto it = scaling.find(key);
  return it != scaling.end() && it->is_number() ? it->get<double>() : preset;
}

at::Tensor llama3(const at::Tensor& inverse, const Json& scaling) {
  const double factor = scaling.at("factor"), low = scaling.at("low_freq_factor"),
               high = scaling.at("high_freq_factor"), old = scaling.at("original_max_position_embeddings");
  const at::Tensor wavelength = 2 * std::numbers::pi / inverse;
  const at::Tensor scaled = at::where(wavelength > old / low, inverse / factor, inverse);
  const at::Tensor smooth = (old / wavelength - low) / (high - low);
  const at::Tensor smoothed = (1 - smooth) * scaled / factor + smooth * scaled;
  const at::Tensor between = ~(wavelength < old / high) * ~(wavelength > old / low);
  return at::where(between, smoothed, scaled);
}

// Peng et al., arXiv:2309.00071.
Frequencies yarn(const DenseConfig& config, const Json& scaling) {
  const double D = static_cast<double>(config.head_dim), base = config.rope.theta,
               factor = scaling.at("factor");
  const double old = number(scaling, "original_max_position_embeddings",
                            static_cast<double>(config.max_position_embeddings));
  const auto magnitude = [](double scale, double m) {
    return scale <= 1 ? 1.0 : 0.1 * m * std::log(scale) + 1.0;
  };
  const double m = number(scaling, "mscale", 0), m_all = number(scaling, "mscale_all_dim", 0);
  const double inferred =
      m != 0 && m_all != 0 ? magnitude(factor, m) / magnitude(factor, m_all) : magnitude(factor, 1);
  // The dimension that turns `turns` times within the original context.
  const auto dimension = [&](double turns) {
    return D * std::log(old / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const auto asked = [&](const char* key, double preset) {
    const double value = number(scaling, key, 0);
    return value == 0 ? preset : value;
  };
  double low = dimension(asked("beta_fast", 32)), high = dimension(asked("beta_slow", 1));
  const auto truncate = scaling.find("truncate");  // null is false, as in transformers
  if (truncate == scaling.end() || *truncate == true) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, D - 1);
  if (low == high) high += 0.001;
  const at::Tensor ramp =
      ((at::arange(config.head_dim / 2, at::TensorOptions(at::kFloat)) - low) / (high - low)).clamp(0, 1);
  const at::Tensor kept = 1 - ramp, power = wavelengths(base, config.head_dim);
  return {1.0 / (factor * power) * (1 - kept) + 1.0 / power * kept,
          number(scaling, "attention_factor", inferred)};
}

Frequencies frequencies(const DenseConfig& config, std::int64_t length) {
  const Rope& rope = config.rope;
  const Json scaling = rope.scaling.empty() ? Json::object() : Json::parse(rope.scaling);
  const auto plain = [&](double base) -> at::Tensor { return 1.0 / wavelengths(base, config.head_dim); };
  if (rope.type == "default") return {plain(rope.theta)};
  if (rope.type == "linear") return {plain(rope.theta) / scaling.at("factor").get<double>()};
  if (rope.type == "llama3") return {llama3(plain(rope.theta), scaling)};
  if (rope.type == "yarn") return yarn(config, scaling);
  require(rope.type == "dynamic", "rope scaling '{}' can't be computed", printable(rope.type));
  const double factor = scaling.at("factor"), most = static_cast<double>(config.max_position_embeddings);
  const double stretch = factor * std::max(static_cast<double>(length), most) / most - (factor - 1);
  const double D = static_cast<double>(config.head_dim);
  return {plain(rope.theta * std::pow(stretch, D / (D - 2)))};
}

}  // namespace

RopeTable rope_table(const DenseConfig& config, const at::Tensor& position_BT) {
  const std::int64_t length = config.rope.type == "dynamic" ? position_BT.max().item<std::int64_t>() + 1 : 0;
  const Frequencies found = frequencies(config, length);
  const at::Tensor angle_BTd =
      position_BT.unsqueeze(-1).to(at::kFloat) * found.value_d.to(position_BT.device());
  return {angle_BTd.cos() * found.attention_factor, angle_BTd.sin() * found.attention_factor};
}

}  // namespace upmoe::model
