#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "upmoe/io/mapped_file.h"
#include "upmoe/tensor/dtype.h"

namespace upmoe {

// The safetensors format (docs/formats.md has the grammar):
//   u64 N, little endian | N bytes of JSON: name -> {dtype, shape, data_offsets} | data
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference reader has it
inline constexpr std::uint64_t kDataAlignment = 4096;          // where the data begins in files of ours

struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the start of the data

  std::uint64_t bytes() const { return end - begin; }
};

// "[8, 576]"
std::string shape_text(std::span<const std::int64_t> shape);

// Bytes of a tensor; throws Error naming `what` when the product overflows or isn't whole bytes.
std::uint64_t tensor_bytes(Dtype dtype, std::span<const std::int64_t> shape, std::string_view what);

struct SafetensorsHeader {
  std::uint64_t data_begin = 0;     // bytes from the start of the file
  std::vector<TensorInfo> tensors;  // sorted by where their data is
};

// Checks everything the reference reader checks, and refuses duplicate names as well. `file` is the file's
// name, for messages. Throws Error. Takes memory in proportion to the header, and time n log n.
SafetensorsHeader parse_safetensors(std::span<const std::byte> whole_file, std::string_view file);

// A safetensors file mapped into memory. Spans of it must not outlive it.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const FileIdentity& identity() const { return file_.identity(); }  // when the header was read
  std::string_view header() const {                                  // its bytes: length and JSON
    return {reinterpret_cast<const char*>(file_.bytes().data()), header_.data_begin};
  }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  std::span<const std::byte> data(const TensorInfo& tensor) const {
    return file_.bytes().subspan(data_begin(tensor), tensor.bytes());
  }
  std::uint64_t data_begin(const TensorInfo& tensor) const {  // from the start of the file
    return header_.data_begin + tensor.begin;
  }
  // After reading data(): throws if the file became shorter meanwhile.
  void require_intact() const { file_.require_intact(); }

 private:
  MappedFile file_;
  SafetensorsHeader header_;
};

// The bytes in front of the data: length, JSON, and spaces so that the data begins at a multiple of
// kDataAlignment. The tensors' data must lie end to end in the order given. Metadata is {"format":"pt"}, and
// `metadata` after it: names and their texts.
std::string safetensors_header(std::span<const TensorInfo> tensors,
                               std::span<const std::pair<std::string, std::string>> metadata = {});

}  // namespace upmoe
