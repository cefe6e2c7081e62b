#include "upmoe/inspect/inspect.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/base/error.h"
#include "upmoe/convert/convert.h"

namespace upmoe {
namespace {

class InspectTest : public testing::Test {
 protected:
  // A converted tiny model with 4 experts.
  std::filesystem::path converted(const std::string& method) {
    const std::filesystem::path dense = folder_ / "dense", out = folder_ / method;
    test::make_tiny_llama(dense);
    ConvertRequest request;
    request.source = dense.string();
    request.folder = dense;
    request.method = method;
    request.experts = 4;
    convert(make_plan(request), out, {});
    return out;
  }

  // The same model with all experts of a layer in one tensor, as mergekit writes it.
  std::filesystem::path stacked(const std::filesystem::path& per_expert, std::int64_t layers = 2,
                                std::int64_t experts = 4) {
    const std::filesystem::path out = folder_ / "stacked";
    const Weights weights{Folder(per_expert)};
    std::vector<test::Tensor> tensors;
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
      test::Tensor gate_up{to + "experts.gate_up_proj", Dtype::bf16, {experts, 2 * 48, 32}, {}},
          down{to + "experts.down_proj", Dtype::bf16, {experts, 32, 48}, {}};
      for (std::int64_t e = 0; e < experts; ++e)
        for (const auto& [w, tensor] : {std::pair{"w1", &gate_up}, {"w3", &gate_up}, {"w2", &down}}) {
          const auto bytes = weights.entries().at(fmt::format("{}experts.{}.{}.weight", from, e, w)).data();
          tensor->data.insert(tensor->data.end(), bytes.begin(), bytes.end());
        }
      tensors.push_back(gate_up);
      tensors.push_back(down);
    }
    test::write_file(out / "config.json", test::read_file(per_expert / "config.json"));
    test::write_weights(out, tensors);
    return out;
  }

  test::TempFolder folder_;
};

TEST_F(InspectTest, SaysWhatADenseModelIs) {
  test::make_tiny_llama(folder_ / "dense", {.shards = 2});
  const Inspection found = inspect(folder_ / "dense");
  EXPECT_EQ(found.model_type, "llama");
  EXPECT_EQ(found.num_layers, 2);
  EXPECT_EQ(found.num_experts, 0);
  EXPECT_EQ(found.num_shards, 2u);
  EXPECT_EQ(found.dtype, "BF16");
  EXPECT_EQ(found.parameters, found.active_parameters);
  EXPECT_FALSE(found.likeness || found.routers);
}

TEST_F(InspectTest, FindsThatCopiedExpertsAreIdentical) {
  const Inspection found = inspect(converted("copy"));
  EXPECT_EQ(found.identical_experts, (std::vector<std::vector<std::int64_t>>{{0, 1, 2, 3}}));
  EXPECT_EQ(found.layers_with_identical, 2);
  EXPECT_NEAR(found.likeness->least, 1, 1e-12);
  EXPECT_EQ(found.num_experts, 4);
  EXPECT_EQ(found.top_k, 2);
  EXPECT_EQ(found.parameters - found.active_parameters, 2u * 2 * 3 * 48 * 32);
  EXPECT_NE(found.provenance, "");
}

TEST_F(InspectTest, FindsThatDroppedExpertsDifferAndHowMuch) {
  const Inspection found = inspect(converted("drop"));
  EXPECT_TRUE(found.identical_experts.empty());
  EXPECT_EQ(found.layers_with_identical, 0);
  // Half of each expert's neurons are kept: two experts share a quarter of them.
  EXPECT_NEAR(found.likeness->mean, 0.25, 0.1);
  EXPECT_NEAR(found.routers->logit_std, 0.5, 0.15);
}

TEST_F(InspectTest, FindsAPairOfTwinsAmongOtherExperts) {
  const std::filesystem::path moe = converted("drop");
  std::vector<test::Tensor> tensors;
  const Weights weights{Folder(moe)};
  for (const auto& [name, entry] : weights.entries()) {
    std::string source = name;
    if (const std::size_t at = name.find("experts.3."); at != std::string::npos) source[at + 8] = '1';
    const auto bytes = weights.entries().at(source).data();
    tensors.push_back({name, entry.info->dtype, entry.info->shape, {bytes.begin(), bytes.end()}});
  }
  test::write_file(folder_ / "twins" / "config.json", test::read_file(moe / "config.json"));
  test::write_weights(folder_ / "twins", tensors);
  EXPECT_EQ(inspect(folder_ / "twins").identical_experts, (std::vector<std::vector<std::int64_t>>{{1, 3}}));
}

TEST_F(InspectTest, SaysTheSameOfStackedExpertsWhateverTheThreads) {
  const std::filesystem::path moe = converted("drop");
  const Inspection apart = inspect(moe, 64, 1), together = inspect(stacked(moe), 64, 3);
  EXPECT_TRUE(together.fused);
  EXPECT_FALSE(apart.fused);
  EXPECT_EQ(together.parameters, apart.parameters);
  EXPECT_EQ(together.active_parameters, apart.active_parameters);
  EXPECT_EQ(together.likeness->mean, apart.likeness->mean);
  EXPECT_EQ(together.routers->std_mean, apart.routers->std_mean);
}

TEST_F(InspectTest, RefusesAConfigurationThatTheWeightsContradict) {
  const std::filesystem::path moe = converted("copy");
  auto config = nlohmann::json::parse(test::read_file(moe / "config.json"));
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, nlohmann::json>>{{"num_local_experts", 5},
                                                           {"num_local_experts", -1},
                                                           {"num_local_experts", "four"},
                                                           {"intermediate_size", 64},
                                                           {"num_hidden_layers", 3},
                                                           {"num_hidden_layers", 1'000'000'000},
                                                           {"num_experts_per_tok", 9},
                                                           {"hidden_size", 0}}) {
    nlohmann::json spoiled = config;
    spoiled[key] = value;
    test::write_file(moe / "config.json", spoiled.dump());
    EXPECT_THROW(inspect(moe), Error) << key << " " << value;
  }
}

}  // namespace
}  // namespace upmoe
