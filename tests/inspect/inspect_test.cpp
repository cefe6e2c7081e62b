#include "upmoe/inspect/inspect.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/inspect/converted.h"
#include "upmoe/base/error.h"

namespace upmoe {
namespace {

class InspectTest : public test::ConvertedTest {
 protected:
  static std::vector<test::Tensor> tensors_of(const std::filesystem::path& moe) {
    std::vector<test::Tensor> out;
    const Weights weights{Folder(moe)};
    for (const auto& [name, entry] : weights.entries())
      out.push_back({name, entry.info->dtype, entry.info->shape, {entry.data().begin(), entry.data().end()}});
    return out;
  }
  // Another folder with these weights, and the configuration of `moe`.
  std::filesystem::path written(const std::vector<test::Tensor>& tensors, const std::filesystem::path& moe) {
    std::filesystem::remove_all(folder_ / "spoilt");
    test::write_file(folder_ / "spoilt" / "config.json", test::read_file(moe / "config.json"));
    test::write_weights(folder_ / "spoilt", tensors);
    return folder_ / "spoilt";
  }
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
  const std::vector<test::Tensor> all = tensors_of(moe);
  std::vector<test::Tensor> tensors = all;
  for (test::Tensor& tensor : tensors)
    if (const std::size_t at = tensor.name.find("experts.3."); at != std::string::npos) {
      std::string source = tensor.name;
      source[at + 8] = '1';
      tensor.data = std::ranges::find(all, source, &test::Tensor::name)->data;
    }
  EXPECT_EQ(inspect(written(tensors, moe)).identical_experts,
            (std::vector<std::vector<std::int64_t>>{{1, 3}}));
}

TEST_F(InspectTest, FindsTwinsAmongExpertsThatDifferInTheirLastNumberOnly) {
  const std::filesystem::path moe = converted("copy");
  std::vector<test::Tensor> tensors = tensors_of(moe);
  const auto last = [&](const char* name) -> std::byte& {
    return std::ranges::find(tensors, name, &test::Tensor::name)->data.back();
  };
  last("model.layers.0.block_sparse_moe.experts.1.w2.weight") ^= std::byte{1};
  last("model.layers.1.block_sparse_moe.experts.0.w3.weight") ^= std::byte{1};
  last("model.layers.1.block_sparse_moe.experts.1.w3.weight") ^= std::byte{1};
  const Inspection found = inspect(written(tensors, moe));
  EXPECT_EQ(found.identical_experts, (std::vector<std::vector<std::int64_t>>{{2, 3}}));
  EXPECT_EQ(found.layers_with_identical, 2);
}

TEST_F(InspectTest, SaysWhereANumberIsNotFiniteInsteadOfComputingWithIt) {
  const std::filesystem::path moe = converted("drop");
  struct Case {
    const char *name, *says;
  };
  for (const Case& each :
       {Case{"model.layers.1.block_sparse_moe.experts.2.w2.weight",
             "layer 1, expert 2: down has NaN at row 0, column 3"},
        Case{"model.layers.1.block_sparse_moe.gate.weight", "layer 1: router has NaN at row 0, column 1"},
        Case{"model.layers.1.post_attention_layernorm.weight",
             "layer 1: norm in front of the router has NaN at row 0, column 3"}}) {
    std::vector<test::Tensor> tensors = tensors_of(moe);
    test::Tensor& tensor = *std::ranges::find(tensors, each.name, &test::Tensor::name);
    for (const std::size_t byte : {6, 7}) tensor.data[byte] = std::byte{0xFF};
    const Inspection found = inspect(written(tensors, moe));
    EXPECT_EQ(found.not_finite, std::vector<std::string>{each.says});
    EXPECT_FALSE(found.likeness || found.routers);
  }
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
