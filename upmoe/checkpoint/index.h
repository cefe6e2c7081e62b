#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace upmoe {

// model.safetensors.index.json: which shard holds which tensor.
using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor -> file

// Checks the form: weight_map is an object of strings, each a plain file name that ends in .safetensors.
WeightMap parse_index(std::string_view text, std::string_view where);

// As Hugging Face writes it: indented, sorted, with a newline at the end. Sizes in bytes of tensor data.
std::string index_text(const WeightMap& map, std::uint64_t total_size, std::uint64_t total_parameters);

// Refuses what could leave a folder: path separators, "..", an absolute path, control characters.
void require_plain_name(std::string_view name, std::string_view named_by);

}  // namespace upmoe
