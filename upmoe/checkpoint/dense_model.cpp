#include "upmoe/checkpoint/dense_model.h"

#include <algorithm>
#include <span>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/match_weights.h"

namespace upmoe {
namespace {

constexpr std::string_view kHead = "lm_head.weight";

bool any_contains(const std::vector<std::string>& names, const std::vector<std::string_view>& parts) {
  return std::ranges::any_of(names, [&](const std::string& name) {
    return std::ranges::any_of(parts,
                               [&](std::string_view part) { return name.find(part) != std::string::npos; });
  });
}

}  // namespace

DenseModel::DenseModel(const std::filesystem::path& path)
    : folder_(path),
      config_text_(folder_.config()),
      config_(parse_dense_config(config_text_, (path / "config.json").string())),
      files_(folder_) {
  take_weights();
}

void DenseModel::take_weights() {
  const std::string where = printable(folder_.path().string());
  const std::vector<DenseWeight> weights = dense_weights(config_);
  std::vector<ExpectedWeight> expected;
  for (const DenseWeight& weight : weights) expected.push_back({weight.name, weight.shape});
  const std::vector<Weights::Entry> entries = match_weights(
      files_, expected, where,
      [&](const std::string& name) {
        // Old conversions carry the rotary frequencies, which every reader computes anew.
        return name.ends_with("rotary_emb.inv_freq") || (name == kHead && config_.tie_word_embeddings);
      },
      [&](const std::vector<std::string>& strangers) { refuse_strangers(strangers); });
  for (std::size_t i = 0; i < weights.size(); ++i) weights_.push_back({weights[i], entries[i]});
  // A tied model whose file has a head all the same: transformers 4 ignores it, 5 may use it.
  if (const auto head = files_.entries().find(kHead);
      head != files_.entries().end() && config_.tie_word_embeddings) {
    const Weights::Entry& embedding = weights_.front().stored;
    const bool same = head->second.info->dtype == embedding.info->dtype &&
                      head->second.info->shape == embedding.info->shape &&
                      std::ranges::equal(head->second.data(), embedding.data());
    files_.require_intact();
    require(same,
            "{}: tie_word_embeddings is true, but lm_head.weight is not the embedding: programs disagree "
            "on which of them to use; remove one",
            where);
    release(head->second.data());
    release(embedding.data());
  }
}

void DenseModel::refuse_strangers(const std::vector<std::string>& strangers) const {
  const std::string where = printable(folder_.path().string());
  if (any_contains(strangers,
                   {".qweight", ".qzeros", "weight_scale", ".scales", ".g_idx", ".absmax", "weight_packed"}))
    fail(
        "{}: the weights are quantised ({}); dequantise them first, for example load with transformers and "
        "save_pretrained in bfloat16",
        where, some(strangers));
  if (any_contains(strangers, {".bias"}))
    fail("{}: has biases that config.json says nothing of ({}): not a plain {}", where, some(strangers),
         config_.model_type);
  if (any_contains(strangers, {"q_norm", "k_norm"}))
    fail("{}: has norms on queries and keys ({}), which no {} has; is it a Qwen3?", where, some(strangers),
         config_.model_type);
  std::vector<std::string> names;
  for (const DenseWeight& weight : dense_weights(config_)) names.push_back(weight.name);
  fail("{}: {} weights that no {} has: {}{}", where, strangers.size(), config_.model_type, some(strangers),
       guess(strangers.front(), names));
}

namespace {

// Weights of a layer, which stand together and are as many in each: of ten thousand layers, none is looked
// for among all.
std::span<const DenseModel::Weight> of_layer(const DenseModel& model, std::int64_t l) {
  const DenseConfig& config = model.config();
  require(l >= 0 && l < config.num_layers, "there is no layer {}, there are {}", l, config.num_layers);
  const std::size_t around = config.tie_word_embeddings ? 2 : 3;  // embedding, last norm, head
  const std::size_t each = (model.weights().size() - around) / static_cast<std::size_t>(config.num_layers);
  return std::span(model.weights()).subspan(1 + static_cast<std::size_t>(l) * each, each);
}

}  // namespace

const DenseModel::Weight& DenseModel::matrix(std::int64_t layer, Matrix matrix) const {
  const auto weights = of_layer(*this, layer);
  const auto it = std::ranges::find_if(
      weights, [&](const Weight& w) { return w.is.role == Role::matrix && w.is.matrix == matrix; });
  require(it != weights.end(), "layer {} has no {}", layer, matrix_name(matrix));
  return *it;
}

const DenseModel::Weight& DenseModel::ffn_norm(std::int64_t layer) const {
  const auto weights = of_layer(*this, layer);
  const auto it = std::ranges::find(weights, Role::ffn_norm, [](const Weight& w) { return w.is.role; });
  require(it != weights.end(), "layer {} has no norm in front of its FFN", layer);
  return *it;
}

std::uint64_t DenseModel::data_bytes() const {
  std::uint64_t bytes = 0;
  for (const Weight& weight : weights_) bytes += weight.stored.info->bytes();
  return bytes;
}

std::uint64_t DenseModel::parameters() const {
  std::uint64_t count = 0;
  for (const Weight& weight : weights_)
    count += weight.stored.info->bytes() * 8 / static_cast<std::uint64_t>(bits(weight.stored.info->dtype));
  return count;
}

std::string DenseModel::torch_dtype() const {
  static const std::vector<std::pair<Dtype, std::string>> kTorch = {
      {Dtype::f32, "float32"}, {Dtype::bf16, "bfloat16"}, {Dtype::f16, "float16"}};
  // "torch.bfloat16" is an old spelling; "auto" says what is stored.
  std::string said =
      config_.torch_dtype.starts_with("torch.") ? config_.torch_dtype.substr(6) : config_.torch_dtype;
  if (said == "auto") said.clear();
  const Dtype stored = matrix(0, Matrix::gate).stored.info->dtype;
  for (const auto& [dtype, name] : kTorch)
    if (said.empty() ? dtype == stored : name == said) return name;
  fail("{}: torch_dtype is '{}'; expected float32, bfloat16 or float16", printable(folder_.path().string()),
       printable(config_.torch_dtype));
}

}  // namespace upmoe
