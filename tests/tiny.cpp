#include "tests/tiny.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "tests/temp_folder.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/dense_weights.h"
#include "upmoe/checkpoint/index.h"
#include "upmoe/format/safetensors.h"
#include "upmoe/random/normal.h"
#include "upmoe/tensor/convert.h"

namespace upmoe::test {
namespace fs = std::filesystem;

void write_safetensors(const fs::path& path, std::span<const Tensor> tensors) {
  std::vector<TensorInfo> infos;
  std::string data;
  for (const Tensor& tensor : tensors) {
    const std::uint64_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
    infos.push_back({tensor.name, tensor.dtype, tensor.shape, begin, data.size()});
  }
  write_file(path, safetensors_header(infos) + data);
}

std::string tiny_config(const TinyOptions& options) {
  nlohmann::ordered_json config = {
      {"architectures", {options.model_type == "mistral" ? "MistralForCausalLM" : "LlamaForCausalLM"}},
      {"model_type", options.model_type},
      {"vocab_size", options.vocab},
      {"hidden_size", options.hidden},
      {"intermediate_size", options.ffn},
      {"num_hidden_layers", options.layers},
      {"num_attention_heads", options.heads},
      {"num_key_value_heads", options.kv_heads},
      {"head_dim", options.head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 10000.0},
      {"tie_word_embeddings", options.tied},
      {"torch_dtype", options.dtype == Dtype::bf16  ? "bfloat16"
                      : options.dtype == Dtype::f16 ? "float16"
                                                    : "float32"},
      {"bos_token_id", 1},
      {"eos_token_id", 2}};
  config.update(nlohmann::ordered_json::parse(options.extra));
  return config.dump(2) + "\n";
}

std::vector<Tensor> tiny_tensors(const TinyOptions& options) {
  std::vector<Tensor> out;
  for (const DenseWeight& weight : dense_weights(parse_dense_config(tiny_config(options), "tiny"))) {
    const bool norm = weight.role == Role::norm || weight.role == Role::ffn_norm;
    std::size_t count = 1;
    for (const std::int64_t size : weight.shape) count *= static_cast<std::size_t>(size);
    std::vector<float> values(count);
    normals(Rng(options.seed).at("tiny").at(weight.name), 0, norm ? 1.0f : 0.0f, 0.05f, values);
    std::vector<std::byte> data(count * static_cast<std::size_t>(bits(options.dtype)) / 8);
    from_float(values, options.dtype, data);
    out.push_back({weight.name, options.dtype, weight.shape, std::move(data)});
  }
  return out;
}

void write_weights(const fs::path& folder, std::span<const Tensor> tensors, std::size_t shards) {
  if (shards == 1) return write_safetensors(folder / "model.safetensors", tensors);
  WeightMap map;
  std::uint64_t bytes = 0;
  for (std::size_t s = 0; s < shards; ++s) {
    const std::size_t begin = tensors.size() * s / shards, end = tensors.size() * (s + 1) / shards;
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards);
    write_safetensors(folder / name, tensors.subspan(begin, end - begin));
    for (const Tensor& tensor : tensors.subspan(begin, end - begin)) {
      map[tensor.name] = name;
      bytes += tensor.data.size();
    }
  }
  write_file(folder / "model.safetensors.index.json", index_text(map, bytes, 0));
}

void make_tiny_llama(const fs::path& folder, const TinyOptions& options) {
  write_file(folder / "config.json", tiny_config(options));
  write_weights(folder, tiny_tensors(options), options.shards);
}

std::vector<std::byte> tensor_bytes_of(const fs::path& folder, std::string_view name) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const TensorInfo& info : file.tensors()) {
      const std::span<const std::byte> data = file.data(info);
      if (info.name == name) return {data.begin(), data.end()};
    }
  }
  throw std::runtime_error(fmt::format("no tensor {} in {}", name, folder.string()));
}

}  // namespace upmoe::test
