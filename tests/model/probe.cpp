// model_probe DIR IN OUT: probe.h between two safetensors files, for tests/python/test_model.py.
#include "tests/model/probe.h"

#include <fstream>
#include <iostream>

namespace {

using namespace upmoe;

void write(const std::string& path, const test::NamedTensors& tensors) {
  std::vector<TensorInfo> infos;
  std::uint64_t end = 0;
  for (const auto& [name, value] : tensors) {
    const std::uint64_t begin = end;
    end += static_cast<std::uint64_t>(value.numel()) * 4;
    infos.push_back({name, Dtype::f32, value.sizes().vec(), begin, end});
  }
  std::ofstream out(path, std::ios::binary);
  out << safetensors_header(infos);
  for (const auto& [name, value] : tensors) {
    const at::Tensor flat = value.to(at::kFloat).contiguous();
    out.write(static_cast<const char*>(flat.const_data_ptr()), flat.numel() * 4);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) return std::cerr << "model_probe DIR IN OUT\n", 2;
  write(argv[3], test::run_probe(argv[1], test::read_tensors(argv[2])));
  return 0;
} catch (const std::exception& error) {
  std::cerr << "model_probe: " << error.what() << "\n";
  return 1;
}
