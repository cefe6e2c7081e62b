#pragma once
#include <gtest/gtest.h>

#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/convert/convert.h"

namespace upmoe::test {

class ConvertedTest : public ::testing::Test {
 protected:
  // A converted tiny model with 4 experts; the model itself is in dense().
  std::filesystem::path converted(const std::string& method, const Values& options = {},
                                  const TinyOptions& tiny = {}) {
    const std::filesystem::path out = folder_ / method;
    make_tiny_llama(dense(), tiny);
    ConvertRequest request;
    request.source = dense().string();
    request.folder = dense();
    request.method = method;
    request.method_options = options;
    request.replace = true;
    request.experts = 4;
    convert(make_plan(request), out, {});
    return out;
  }
  std::filesystem::path dense() const { return folder_ / "dense"; }

  // The same model with all experts of a layer in one tensor, as mergekit writes it.
  std::filesystem::path stacked(const std::filesystem::path& per_expert, std::int64_t layers = 2,
                                std::int64_t experts = 4) {
    const std::filesystem::path out = folder_ / "stacked";
    const Weights weights{Folder(per_expert)};
    std::vector<Tensor> tensors;
    for (const auto& [name, entry] : weights.entries())
      if (name.find("block_sparse_moe") == std::string::npos)
        tensors.push_back(
            {name, entry.info->dtype, entry.info->shape, {entry.data().begin(), entry.data().end()}});
    for (std::int64_t l = 0; l < layers; ++l) {
      const std::string from = fmt::format("model.layers.{}.block_sparse_moe.", l),
                        to = fmt::format("model.layers.{}.mlp.", l);
      const Weights::Entry& gate = weights.entries().at(from + "gate.weight");
      tensors.push_back(
          {to + "gate.weight", gate.info->dtype, gate.info->shape, {gate.data().begin(), gate.data().end()}});
      Tensor gate_up{to + "experts.gate_up_proj", Dtype::bf16, {experts, 2 * 48, 32}, {}},
          down{to + "experts.down_proj", Dtype::bf16, {experts, 32, 48}, {}};
      for (std::int64_t e = 0; e < experts; ++e)
        for (const auto& [w, tensor] : {std::pair{"w1", &gate_up}, {"w3", &gate_up}, {"w2", &down}}) {
          const auto bytes = weights.entries().at(fmt::format("{}experts.{}.{}.weight", from, e, w)).data();
          tensor->data.insert(tensor->data.end(), bytes.begin(), bytes.end());
        }
      tensors.push_back(gate_up);
      tensors.push_back(down);
    }
    write_file(out / "config.json", read_file(per_expert / "config.json"));
    write_weights(out, tensors);
    return out;
  }

  TempFolder folder_;
};

}  // namespace upmoe::test
