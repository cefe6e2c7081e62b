// The input is read twice: as a whole file, and as the header of a file whose length is right. In the second
// case its first byte says how many bytes of data follow.
#include <cstring>
#include <span>

#include "tests/fuzz/fuzz.h"
#include "upmoe/format/safetensors.h"

namespace upmoe::fuzz {
namespace {

SafetensorsHeader parse(std::string_view file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "m.safetensors");
}

void read(std::string_view file) {
  const SafetensorsHeader header = parse(file);
  std::uint64_t end = header.data_begin;
  for (const TensorInfo& tensor : header.tensors) {
    check(header.data_begin + tensor.begin == end, "a hole or an overlap");
    check(tensor.bytes() == tensor_bytes(tensor.dtype, tensor.shape, "x"), "another size than the shape's");
    end = header.data_begin + tensor.end;
  }
  check(end == file.size(), "the data is not the rest of the file");

  const std::string again = safetensors_header(header.tensors) + std::string(file.substr(header.data_begin));
  const SafetensorsHeader reread = parse(again);
  check(reread.tensors.size() == header.tensors.size(), "a tensor is lost in writing");
  for (std::size_t i = 0; i < reread.tensors.size(); ++i)
    check(reread.tensors[i].name == header.tensors[i].name &&
              reread.tensors[i].shape == header.tensors[i].shape &&
              reread.tensors[i].dtype == header.tensors[i].dtype,
          "a tensor is another one after writing");
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe::fuzz;
  const std::string_view input = text_of(data, size);
  only_errors([&] { read(input); });
  if (size == 0) return 0;
  const std::uint64_t length = size - 1;
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file += input.substr(1);
  file += std::string(data[0], 'x');
  only_errors([&] { read(file); });
  return 0;
}
