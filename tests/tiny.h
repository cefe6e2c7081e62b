#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/tensor/dtype.h"

namespace upmoe::test {

// A tensor with its bytes, as it stands in a safetensors file.
struct Tensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;

  bool operator==(const Tensor&) const = default;
};

void write_safetensors(const std::filesystem::path& path, std::span<const Tensor> tensors);

struct TinyOptions {
  std::string model_type = "llama";
  std::int64_t layers = 2, hidden = 32, ffn = 48, vocab = 64;
  std::int64_t heads = 4, kv_heads = 2, head_dim = 8;
  Dtype dtype = Dtype::bf16;
  bool tied = false;
  std::size_t shards = 1;  // more than one: with an index
  std::uint64_t seed = 0;
  std::string extra = "{}";  // JSON: keys of config.json to add or to replace, last
};

// What make_tiny_llama writes, for tests that want to spoil some of it.
std::string tiny_config(const TinyOptions& options = {});
std::vector<Tensor> tiny_tensors(const TinyOptions& options = {});
void write_weights(const std::filesystem::path& folder, std::span<const Tensor> tensors,
                   std::size_t shards = 1);

// A dense Llama (or Mistral) of a few kilobytes: config.json and safetensors. The same options give the same
// bytes. Norms lie around 1, other weights around 0 with deviation 0.05.
void make_tiny_llama(const std::filesystem::path& folder, const TinyOptions& options = {});

// The bytes of a tensor in a folder's safetensors files, whichever holds it. Throws when none does.
std::vector<std::byte> tensor_bytes_of(const std::filesystem::path& folder, std::string_view name);

}  // namespace upmoe::test
