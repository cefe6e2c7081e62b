// What every target promises. A new one is enrolled by its registry line.
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/fails_with.h"
#include "upmoe/base/plugin.h"
#include "upmoe/checkpoint/dense_weights.h"
#include "upmoe/target/registry.h"

namespace upmoe {

inline void PrintTo(const Target& target, std::ostream* out) { *out << target.name; }

namespace {

using Json = nlohmann::ordered_json;

DenseConfig dense(const std::string& more = "") {
  return parse_dense_config(
      R"({"model_type":"llama","vocab_size":300,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,
      "num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,"initializer_range":0.02)" +
          more + "}",
      "config.json");
}
const MoeShape kShape{.experts = 8, .per_token = 2, .expert_size = 96};

class EveryTarget : public testing::TestWithParam<Target> {};

TEST_P(EveryTarget, NamesEveryWeightOnceAndNoneAsADenseOne) {
  const Target& target = GetParam();
  std::set<std::string> names;
  std::size_t count = 0;
  for (const DenseWeight& weight : dense_weights(dense())) {
    if (weight.role == Role::matrix) continue;
    names.insert(weight.name);
    ++count;
  }
  for (std::int64_t l = 0; l < 3; ++l) {
    names.insert(weight_name(target.router, l));
    ++count;
    for (std::int64_t e = 0; e < kShape.experts; ++e)
      for (const Matrix matrix : kMatrices) {
        names.insert(weight_name(target.expert.of(matrix), l, e));
        ++count;
      }
  }
  EXPECT_EQ(names.size(), count);
  for (const std::string& name : names) EXPECT_EQ(name.find_first_of("{}"), std::string::npos) << name;
}

bool alike(const MoeShape& a, const MoeShape& b) {
  return a.experts == b.experts && a.per_token == b.per_token && a.expert_size == b.expert_size;
}

TEST_P(EveryTarget, RefusesSizesThatAreNotWhole) {
  const Target& target = GetParam();
  const auto config = nlohmann::json::parse(target.config(dense(), kShape, false, "bfloat16").dump());
  int sizes = 0;
  for (const auto& [key, value] : config.items()) {
    if (!value.is_number_integer()) continue;
    nlohmann::json other = config;
    other[key] = value.get<std::int64_t>() + 1;
    if (alike(target.shape(other), kShape)) continue;
    ++sizes;
    for (const double bad : {2.5, 1e300, -1e300}) {
      other[key] = bad;
      EXPECT_TRUE(test::fails_with([&] { target.shape(other); }, {key, "expected a whole number"}));
    }
    other[key] = std::numeric_limits<std::uint64_t>::max();
    EXPECT_TRUE(test::fails_with([&] { target.shape(other); }, {key, "expected a whole number"}));
  }
  EXPECT_GE(sizes, 3);
}

TEST_P(EveryTarget, ReadsItsOwnConfigurationBack) {
  const Target& target = GetParam();
  const nlohmann::json config =
      nlohmann::json::parse(target.config(dense(), kShape, false, "bfloat16").dump());
  EXPECT_EQ(config.at("model_type"), target.model_type);
  const MoeShape shape = target.shape(config);
  EXPECT_TRUE(alike(shape, kShape));
}

TEST_P(EveryTarget, WritesTheSpellingThatBothTransformersRead) {
  const Json config =
      GetParam().config(dense(R"(,"rope_parameters":{"rope_type":"llama3","rope_theta":500000,"factor":8,
      "low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":8192})"),
                        kShape, false, "bfloat16");
  EXPECT_FALSE(config.contains("rope_parameters"));
  EXPECT_FALSE(config.contains("dtype"));
  EXPECT_EQ(config.at("rope_theta"), 500000.0);
  EXPECT_EQ(config.at("torch_dtype"), "bfloat16");
  EXPECT_EQ(config.at("rope_scaling").at("rope_type"), "llama3");
  EXPECT_TRUE(config.at("rope_scaling").at("factor").is_number_float());
  EXPECT_TRUE(config.at("rope_scaling").at("original_max_position_embeddings").is_number_integer());
}

TEST_P(EveryTarget, WritesFloatsAsFloats) {
  const Json config =
      GetParam().config(dense(R"(,"rope_theta":10000,"attention_dropout":0)"), kShape, false, "float32");
  for (const char* key :
       {"rms_norm_eps", "initializer_range", "rope_theta", "attention_dropout", "router_aux_loss_coef"})
    EXPECT_TRUE(!config.contains(key) || config.at(key).is_number_float()) << key;
}

TEST_P(EveryTarget, CarriesTokenIdsOfEveryForm) {
  const Json config = GetParam().config(
      dense(R"(,"bos_token_id":280,"eos_token_id":[281,289],"pad_token_id":-1)"), kShape, false, "bfloat16");
  EXPECT_EQ(config.at("bos_token_id"), 280);
  EXPECT_EQ(config.at("eos_token_id"), Json::array({281, 289}));
  EXPECT_TRUE(config.at("pad_token_id").is_null());
}

INSTANTIATE_TEST_SUITE_P(All, EveryTarget, testing::ValuesIn(target::targets()),
                         [](const auto& each) { return each.param.name; });

TEST(Mixtral, LeavesNothingToMixtralsDefaults) {
  // Every key of MixtralConfig in transformers 4.57 that bears on what the model computes or on how it is
  // trained.
  const Json config =
      find_plugin(target::targets(), "mixtral", "target").config(dense(), kShape, false, "bfloat16");
  for (const char* key : {"vocab_size",
                          "hidden_size",
                          "intermediate_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "num_key_value_heads",
                          "head_dim",
                          "hidden_act",
                          "max_position_embeddings",
                          "initializer_range",
                          "rms_norm_eps",
                          "use_cache",
                          "pad_token_id",
                          "bos_token_id",
                          "eos_token_id",
                          "tie_word_embeddings",
                          "rope_theta",
                          "rope_scaling",
                          "sliding_window",
                          "attention_dropout",
                          "num_experts_per_tok",
                          "num_local_experts",
                          "output_router_logits",
                          "router_aux_loss_coef",
                          "router_jitter_noise"})
    EXPECT_TRUE(config.contains(key)) << key;
}

TEST(Mixtral, WarnsOfWhatSomeRuntimesGetWrong) {
  const Target& mixtral = find_plugin(target::targets(), "mixtral", "target");
  EXPECT_TRUE(mixtral.caveats(dense()).empty());
  EXPECT_EQ(mixtral.caveats(dense(R"(,"rope_scaling":{"rope_type":"linear","factor":2.0})")).size(), 1u);
  EXPECT_EQ(mixtral.caveats(dense(R"(,"head_dim":32)")).size(), 1u);
}

}  // namespace
}  // namespace upmoe
