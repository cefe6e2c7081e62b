#include "upmoe/checkpoint/dense_model.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"

namespace upmoe {
namespace {

using test::fails_with;
using test::make_tiny_llama;
using test::Tensor;
using test::TinyOptions;

class DenseModelTest : public testing::Test {
 protected:
  // The tiny model with its tensors changed.
  void spoil(const TinyOptions& options, auto&& change) const {
    std::vector<Tensor> tensors = test::tiny_tensors(options);
    change(tensors);
    test::write_file(folder_ / "config.json", test::tiny_config(options));
    test::write_weights(folder_.path(), tensors);
  }
  testing::AssertionResult refused(std::initializer_list<std::string_view> parts) const {
    const auto result = fails_with([&] { DenseModel model(folder_.path()); }, parts);
    return result ? fails_with([&] { DenseModel model(folder_.path()); }, {folder_.path().string()}) : result;
  }
  static Tensor& named(std::vector<Tensor>& tensors, std::string_view name) {
    return *std::ranges::find(tensors, name, &Tensor::name);
  }
  static Tensor stranger(const std::string& name, Dtype dtype = Dtype::f32) {
    return {name, dtype, {1}, std::vector<std::byte>(static_cast<std::size_t>(bits(dtype)) / 8)};
  }
  test::TempFolder folder_;
};

TEST_F(DenseModelTest, KnowsItsWeights) {
  make_tiny_llama(folder_.path());
  const DenseModel model(folder_.path());
  EXPECT_EQ(model.config().num_layers, 2);
  EXPECT_EQ(model.config_text(), test::tiny_config());
  EXPECT_EQ(model.weights().size(), 1 + 2 * 9 + 2u);
  EXPECT_EQ(model.weights().front().is.role, Role::embedding);
  EXPECT_EQ(model.matrix(1, Matrix::down).is.name, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(model.ffn_norm(0).is.name, "model.layers.0.post_attention_layernorm.weight");
  EXPECT_THROW(model.matrix(2, Matrix::up), Error);
  EXPECT_THROW(model.ffn_norm(-1), Error);
}

TEST_F(DenseModelTest, CountsBytesAndParameters) {
  make_tiny_llama(folder_.path());
  // V 64, H 32, F 48, q 32, kv 16: embedding and head, two layers of attention, FFN and norms, the last norm.
  const std::uint64_t count = 2 * 64 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32) + 32;
  const DenseModel model(folder_.path());
  EXPECT_EQ(model.parameters(), count);
  EXPECT_EQ(model.data_bytes(), 2 * count);
}

TEST_F(DenseModelTest, IsTheSameFromOneFileAndFromShards) {
  make_tiny_llama(folder_ / "one");
  make_tiny_llama(folder_ / "many", {.shards = 5});
  const DenseModel one(folder_ / "one"), many(folder_ / "many");
  ASSERT_EQ(one.weights().size(), many.weights().size());
  for (std::size_t i = 0; i < one.weights().size(); ++i)
    EXPECT_TRUE(std::ranges::equal(one.weights()[i].stored.data(), many.weights()[i].stored.data()))
        << one.weights()[i].is.name;
}

TEST_F(DenseModelTest, MayBeAMistralOrHaveBiases) {
  make_tiny_llama(folder_ / "mistral", {.model_type = "mistral", .dtype = Dtype::f16});
  EXPECT_EQ(DenseModel(folder_ / "mistral").config().model_type, "mistral");
  make_tiny_llama(folder_ / "biased",
                  {.dtype = Dtype::f32, .extra = R"({"attention_bias": true, "mlp_bias": true})"});
  EXPECT_EQ(DenseModel(folder_ / "biased").weights().size(), 1 + 2 * 16 + 2u);
}

TEST_F(DenseModelTest, ListsMissingWeights) {
  spoil({}, [](auto& tensors) {
    std::erase_if(tensors, [](const Tensor& t) { return t.name == "model.norm.weight"; });
  });
  EXPECT_TRUE(refused({"1 of 21 weights are missing", "model.norm.weight", "download complete?"}));
  spoil({}, [](auto& tensors) {
    std::erase_if(tensors, [](const Tensor& t) { return t.name.find(".layers.1.") != std::string::npos; });
  });
  EXPECT_TRUE(
      refused({"9 of 21 weights are missing", "model.layers.1.input_layernorm.weight", "and 6 more"}));
}

TEST_F(DenseModelTest, AnswersAStrangerWithAGuess) {
  spoil({}, [](auto& tensors) {
    named(tensors, "model.layers.0.mlp.up_proj.weight").name = "model.layers.0.mlp.upproj.weight";
  });
  EXPECT_TRUE(refused({"1 weights that no llama has: model.layers.0.mlp.upproj.weight",
                       "did you mean 'model.layers.0.mlp.up_proj.weight'?"}));
}

TEST_F(DenseModelTest, RefusesMoreLayersThanItsConfiguration) {
  test::write_file(folder_ / "config.json", test::tiny_config({.layers = 1}));
  test::write_weights(folder_.path(), test::tiny_tensors({.layers = 2}));
  EXPECT_TRUE(refused({"9 weights that no llama has", "model.layers.1."}));
}

TEST_F(DenseModelTest, RefusesBiasesThatTheConfigurationDoesNotHave) {
  spoil({}, [](auto& tensors) { tensors.push_back(stranger("model.layers.0.self_attn.q_proj.bias")); });
  EXPECT_TRUE(refused({"biases", "model.layers.0.self_attn.q_proj.bias", "not a plain llama"}));
}

TEST_F(DenseModelTest, RefusesNormsOfQwen3) {
  spoil({}, [](auto& tensors) { tensors.push_back(stranger("model.layers.0.self_attn.q_norm.weight")); });
  EXPECT_TRUE(refused({"q_norm", "Qwen3?"}));
}

TEST_F(DenseModelTest, RefusesQuantisedWeights) {
  for (const std::string name :
       {"model.layers.0.mlp.up_proj.qweight", "model.layers.0.mlp.up_proj.weight_scale_inv",
        "model.layers.0.mlp.up_proj.weight.absmax", "model.layers.0.mlp.up_proj.weight_packed"}) {
    spoil({}, [&](auto& tensors) { tensors.push_back(stranger(name)); });
    EXPECT_TRUE(refused({"quantised", name, "dequantise"})) << name;
  }
}

TEST_F(DenseModelTest, RefusesAnotherShape) {
  spoil({}, [](auto& tensors) { named(tensors, "model.layers.1.mlp.down_proj.weight").shape = {48, 32}; });
  EXPECT_TRUE(
      refused({"'model.layers.1.mlp.down_proj.weight'", "shape [48, 32]", "config.json says [32, 48]"}));
}

TEST_F(DenseModelTest, RefusesAnotherType) {
  for (const Dtype dtype : {Dtype::i16, Dtype::u16}) {
    spoil({}, [&](auto& tensors) { named(tensors, "model.norm.weight").dtype = dtype; });
    EXPECT_TRUE(
        refused({"'model.norm.weight'", std::string(name(dtype)), "F32, BF16 and F16", "dequantise"}));
  }
}

TEST_F(DenseModelTest, IgnoresRotaryFrequenciesOfOldConversions) {
  spoil({},
        [](auto& tensors) { tensors.push_back(stranger("model.layers.0.self_attn.rotary_emb.inv_freq")); });
  EXPECT_EQ(DenseModel(folder_.path()).weights().size(), 21u);
}

TEST_F(DenseModelTest, TakesATiedHeadThatIsTheEmbedding) {
  const auto add_head = [](auto& tensors) {
    tensors.push_back(named(tensors, "model.embed_tokens.weight"));
    tensors.back().name = "lm_head.weight";
  };
  spoil({.tied = true}, add_head);
  EXPECT_EQ(DenseModel(folder_.path()).weights().size(), 20u);
}

TEST_F(DenseModelTest, RefusesATiedHeadThatIsAnother) {
  const auto add_head = [](std::vector<Tensor>& tensors, auto&& change) {
    tensors.push_back(named(tensors, "model.embed_tokens.weight"));
    tensors.back().name = "lm_head.weight";
    change(tensors.back());
  };
  const auto different = [&](auto&& change) {
    spoil({.tied = true}, [&](auto& tensors) { add_head(tensors, change); });
    return refused({"tie_word_embeddings is true", "lm_head.weight is not the embedding"});
  };
  EXPECT_TRUE(different([](Tensor& head) { head.data.back() ^= std::byte{1}; }));
  EXPECT_TRUE(different([](Tensor& head) { head.dtype = Dtype::f16; }));  // the same bytes, other numbers
  EXPECT_TRUE(different([](Tensor& head) { std::swap(head.shape[0], head.shape[1]); }));
}

TEST_F(DenseModelTest, NamesTheFolderThatIsNoCheckpoint) {
  EXPECT_TRUE(refused({"no config.json"}));
  test::write_file(folder_ / "config.json", test::tiny_config());
  EXPECT_TRUE(refused({"neither model.safetensors nor"}));
}

}  // namespace
}  // namespace upmoe
