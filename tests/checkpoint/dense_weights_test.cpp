#include "upmoe/checkpoint/dense_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <span>

namespace upmoe {
namespace {

const DenseConfig kConfig = {.model_type = "llama",
                             .vocab_size = 100,
                             .hidden_size = 24,
                             .intermediate_size = 40,
                             .num_layers = 2,
                             .num_heads = 6,
                             .num_kv_heads = 3,
                             .head_dim = 8};

std::vector<std::string> lines(const DenseConfig& config) {
  std::vector<std::string> out;
  for (const DenseWeight& weight : dense_weights(config))
    out.push_back(fmt::format("{} {}", weight.name, weight.shape));
  return out;
}

// docs: hf_formats.md 1.1, from transformers' modeling_llama.py.
TEST(DenseWeights, AreThoseOfLlamaInTheOrderOfTheModel) {
  const std::vector<std::string> expected = {"model.embed_tokens.weight [100, 24]",
                                             "model.layers.0.input_layernorm.weight [24]",
                                             "model.layers.0.self_attn.q_proj.weight [48, 24]",
                                             "model.layers.0.self_attn.k_proj.weight [24, 24]",
                                             "model.layers.0.self_attn.v_proj.weight [24, 24]",
                                             "model.layers.0.self_attn.o_proj.weight [24, 48]",
                                             "model.layers.0.post_attention_layernorm.weight [24]",
                                             "model.layers.0.mlp.gate_proj.weight [40, 24]",
                                             "model.layers.0.mlp.up_proj.weight [40, 24]",
                                             "model.layers.0.mlp.down_proj.weight [24, 40]"};
  const std::vector<std::string> all = lines(kConfig);
  ASSERT_EQ(all.size(), 1 + 2 * 9 + 2u);
  EXPECT_TRUE(std::ranges::equal(expected, std::span(all).first(10)))
      << fmt::format("{}", fmt::join(all, "\n"));
  EXPECT_EQ(all[10], "model.layers.1.input_layernorm.weight [24]");
  EXPECT_EQ(all[19], "model.norm.weight [24]");
  EXPECT_EQ(all[20], "lm_head.weight [100, 24]");
}

TEST(DenseWeights, OfATiedModelHaveNoHead) {
  DenseConfig tied = kConfig;
  tied.tie_word_embeddings = true;
  const std::vector<std::string> all = lines(tied);
  EXPECT_EQ(all.back(), "model.norm.weight [24]");
}

TEST(DenseWeights, HaveTheBiasesThatTheConfigurationHas) {
  DenseConfig config = kConfig;
  config.attention_bias = true;
  std::vector<std::string> all = lines(config);
  EXPECT_EQ(all.size(), 21 + 2 * 4u);
  for (const std::string line :
       {"q_proj.bias [48]", "k_proj.bias [24]", "v_proj.bias [24]", "o_proj.bias [24]"})
    EXPECT_EQ(std::ranges::count(all, "model.layers.1.self_attn." + line), 1) << line;
  config.mlp_bias = true;
  all = lines(config);
  EXPECT_EQ(all.size(), 21 + 2 * 7u);
  for (const std::string line : {"gate_proj.bias [40]", "up_proj.bias [40]", "down_proj.bias [24]"})
    EXPECT_EQ(std::ranges::count(all, "model.layers.1.mlp." + line), 1) << line;
}

TEST(DenseWeights, KnowTheirRole) {
  for (const DenseWeight& weight : dense_weights(kConfig)) {
    EXPECT_EQ(weight.role == Role::matrix, weight.name.find(".mlp.") != std::string::npos) << weight.name;
    EXPECT_EQ(weight.role == Role::ffn_norm,
              weight.name.find("post_attention_layernorm") != std::string::npos);
    EXPECT_EQ(weight.layer >= 0, weight.name.find(".layers.") != std::string::npos) << weight.name;
    if (weight.role != Role::matrix) continue;
    const std::string name = "." + std::string(matrix_name(weight.matrix)) + "_proj";
    EXPECT_NE(weight.name.find(name), std::string::npos) << weight.name;
  }
}

}  // namespace
}  // namespace upmoe
