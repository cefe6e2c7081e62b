// model_probe DIR IN OUT: runs a model and writes what it computed, for comparison with transformers.
//   IN   safetensors: token I64 [B, T]; if there: document, position I64 [B, T]; target I64 [B, T], -1 is not
//   scored OUT  safetensors, F32: logits [B, T, V]; with target: loss [] (mean over what is scored) and
//   grad.NAME of each weight
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>

#include <fstream>
#include <iostream>

#include "upmoe/format/safetensors.h"
#include "upmoe/model/load.h"

namespace {

using namespace upmoe;

at::Tensor read(const SafetensorsFile& file, const std::string& name) {
  for (const TensorInfo& info : file.tensors())
    if (info.name == name)
      return at::from_blob(const_cast<std::byte*>(file.data(info).data()), info.shape, at::kLong).clone();
  return {};
}

void write(const std::string& path, const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
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
    const at::Tensor flat = value.detach().to(at::kFloat).contiguous();
    out.write(static_cast<const char*>(flat.data_ptr()), flat.numel() * 4);
  }
}

void probe(const std::string& folder, const std::string& in, const std::string& out) {
  model::Model model = model::load(folder);
  const SafetensorsFile file(in);
  const model::Input input{read(file, "token"), read(file, "position"), read(file, "document")};
  const at::Tensor target = read(file, "target");
  std::vector<std::pair<std::string, at::Tensor>> found;
  if (target.defined())
    for (const auto& [name, value] : model::named_weights(model))
      *value = value->clone().set_requires_grad(true);
  if (model.config.llama.tie_word_embeddings) model.head_VH = model.embedding_VH;
  const at::Tensor hidden = model::hidden_states(model, input);
  found.emplace_back("logits", model::logits(model, hidden));
  if (target.defined()) {
    const at::Tensor nll_N = ops::token_nll(hidden.flatten(0, 1), model.head_VH, target.flatten());
    const at::Tensor loss = nll_N.sum() / (target >= 0).sum();
    loss.backward();
    found.emplace_back("loss", loss);
    for (const auto& [name, value] : model::named_weights(model))
      found.emplace_back("grad." + name, value->grad().defined() ? value->grad() : value->detach() * 0);
  }
  write(out, found);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) return std::cerr << "model_probe DIR IN OUT\n", 2;
  probe(argv[1], argv[2], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << "model_probe: " << error.what() << "\n";
  return 1;
}
