#include "upmoe/checkpoint/dense_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/fails_with.h"

namespace upmoe {
namespace {

using Json = nlohmann::json;
using test::fails_with;

// The config of a llama with these keys as well.
DenseConfig llama(const std::string& keys = "") {
  return parse_dense_config(R"({"model_type":"llama")" + (keys.empty() ? "" : "," + keys) + "}",
                            "x/config.json");
}
DenseConfig mistral(const std::string& keys = "") {
  return parse_dense_config(R"({"model_type":"mistral")" + (keys.empty() ? "" : "," + keys) + "}",
                            "x/config.json");
}
testing::AssertionResult refused(const std::string& keys, std::initializer_list<std::string_view> parts) {
  const auto result = fails_with([&] { llama(keys); }, parts);
  return result ? fails_with([&] { llama(keys); }, {"x/config.json: "}) : result;
}

// Source of the defaults: transformers 4.57, configuration_llama.py and configuration_mistral.py.
TEST(DenseConfig, OfLlamaHasTheDefaultsOfTransformers) {
  const DenseConfig config = llama();
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 11008);
  EXPECT_EQ(config.num_layers, 32);
  EXPECT_EQ(config.num_heads, 32);
  EXPECT_EQ(config.num_kv_heads, 32);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.initializer_range, 0.02);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_EQ(config.rope.type, "default");
  EXPECT_EQ(config.rope.scaling, "");
  EXPECT_EQ(config.sliding_window, std::nullopt);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_FALSE(config.mlp_bias);
  EXPECT_EQ(config.attention_dropout, 0);
  EXPECT_EQ(config.torch_dtype, "");
  EXPECT_EQ(config.bos_token_id, "1");
  EXPECT_EQ(config.eos_token_id, "2");
  EXPECT_EQ(config.pad_token_id, "null");
}

TEST(DenseConfig, OfMistralHasTheDefaultsOfTransformers) {
  const DenseConfig config = mistral();
  EXPECT_EQ(config.intermediate_size, 14336);
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.max_position_embeddings, 131072);
  EXPECT_EQ(config.sliding_window, 4096);
}

TEST(DenseConfig, KnowsAbsentFromNull) {
  EXPECT_EQ(mistral(R"("sliding_window":null)").sliding_window, std::nullopt);
  EXPECT_EQ(mistral(R"("sliding_window":8192)").sliding_window, 8192);
  EXPECT_EQ(mistral(R"("num_key_value_heads":null)").num_kv_heads, 32);
  EXPECT_EQ(llama(R"("num_attention_heads":16,"num_key_value_heads":null)").num_kv_heads, 16);
  EXPECT_EQ(llama(R"("bos_token_id":null,"eos_token_id":null)").eos_token_id, "null");
}

TEST(DenseConfig, TakesAHeadDimThatIsNotHiddenOverHeads) {
  EXPECT_EQ(llama(R"("hidden_size":5120,"num_attention_heads":32,"head_dim":128)").head_dim,
            128);  // Mistral-Nemo
  EXPECT_EQ(llama(R"("hidden_size":576,"num_attention_heads":9,"head_dim":null)").head_dim, 64);
  EXPECT_TRUE(refused(R"("hidden_size":100,"num_attention_heads":9)",
                      {"hidden_size 100", "num_attention_heads 9", "no head_dim"}));
}

TEST(DenseConfig, OfSmolLm2IsReadAsItIs) {
  // HuggingFaceTB/SmolLM2-135M-Instruct, config.json.
  const DenseConfig config = parse_dense_config(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
    "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
    "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "use_cache": true, "vocab_size": 49152})",
                                                "config.json");
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.num_kv_heads, 3);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope.theta, 100000.0);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.torch_dtype, "bfloat16");
  EXPECT_EQ(config.pad_token_id, "2");
  EXPECT_TRUE(config.unknown.empty());
}

TEST(DenseConfig, SortsOutWhatItIgnoresAndWhatItDoesNotKnow) {
  const DenseConfig config = llama(R"("use_cache":true,"my_own_key":{"a":[1]},"pretraining_tp":2)");
  EXPECT_EQ(config.unknown, std::vector<std::string>{"my_own_key"});
}

TEST(DenseConfig, TakesTheDtypeInBothSpellings) {
  EXPECT_EQ(llama(R"("torch_dtype":"float16")").torch_dtype, "float16");
  EXPECT_EQ(llama(R"("dtype":"float32")").torch_dtype, "float32");
  EXPECT_EQ(llama(R"("torch_dtype":"float16","dtype":"bfloat16")").torch_dtype, "bfloat16");
}

TEST(DenseConfig, TakesTokenIdsAsNumbersListsOrNull) {
  EXPECT_EQ(llama(R"("vocab_size":128256,"eos_token_id":[128001,128008,128009])").eos_token_id,
            "[128001,128008,128009]");
  EXPECT_EQ(llama(R"("bos_token_id":0)").bos_token_id, "0");
  EXPECT_EQ(llama(R"("pad_token_id":-1)").pad_token_id, "null");  // LLaMA-1
  for (const std::string value : {"1.5", "true", "\"2\"", "[]", "[1,\"2\"]", "[1.0]", "[null]", "{}"})
    EXPECT_TRUE(refused(R"("eos_token_id":)" + value, {"eos_token_id", value, "a token id"})) << value;
}

TEST(DenseConfig, RefusesATokenThatTheVocabularyDoesNotHave) {
  for (const std::string key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    for (const std::string value : {"64", "[1,64]", "[-1]", "2147483648", "9223372036854775807",
                                    "9223372036854775808", "18446744073709551615"})
      EXPECT_TRUE(
          refused(R"("vocab_size":64,")" + key + "\":" + value, {key + " is " + value, "from 0 to 63"}))
          << key << " " << value;
  EXPECT_EQ(llama(R"("vocab_size":64,"eos_token_id":63)").eos_token_id, "63");
  // The family's own eos is 2, which transformers would give such a model as well.
  EXPECT_EQ(llama(R"("vocab_size":2)").eos_token_id, "null");
  EXPECT_EQ(llama(R"("vocab_size":2)").bos_token_id, "1");
}

TEST(DenseConfig, RefusesHeadsThatTheRotationCannotPair) {
  EXPECT_TRUE(refused(R"("head_dim":7)", {"head_dim is 7", "even"}));
  EXPECT_TRUE(refused(R"("hidden_size":27,"num_attention_heads":9)", {"head_dim is 3", "even"}));
}

TEST(DenseConfig, RefusesNumbersThatNoModelHas) {
  EXPECT_TRUE(refused(R"("rms_norm_eps":-1e-5)", {"rms_norm_eps is -1e-05", "from 0 to 1"}));
  EXPECT_TRUE(refused(R"("rms_norm_eps":1e300)", {"rms_norm_eps is 1e+300"}));
  EXPECT_TRUE(refused(R"("attention_dropout":-1)", {"attention_dropout is -1"}));
  EXPECT_TRUE(refused(R"("initializer_range":-0.02)", {"initializer_range is -0.02"}));
  EXPECT_TRUE(refused(R"("rms_norm_eps":1e999)", {"not valid JSON"}));
}

// Rope: three spellings of one thing.

TEST(Rope, IsReadAsTransformers4WritesIt) {
  const Rope rope =
      llama(
          R"("rope_theta":500000.0,"rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
         "original_max_position_embeddings":8192,"rope_type":"llama3"})")
          .rope;
  EXPECT_EQ(rope.theta, 500000.0);
  EXPECT_EQ(rope.type, "llama3");
  EXPECT_EQ(Json::parse(rope.scaling),
            Json::parse(R"({"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
                            "original_max_position_embeddings":8192,"rope_type":"llama3"})"));
}

TEST(Rope, IsReadAsTransformers5WritesIt) {
  const Rope plain = llama(R"("rope_parameters":{"rope_theta":100000,"rope_type":"default"})").rope;
  EXPECT_EQ(plain.theta, 100000.0);
  EXPECT_EQ(plain.type, "default");
  EXPECT_EQ(plain.scaling, "");
  const Rope llama3 =
      llama(
          R"("rope_parameters":{"rope_theta":500000.0,"factor":8.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
         "original_max_position_embeddings":8192,"rope_type":"llama3"})")
          .rope;
  EXPECT_EQ(llama3.theta, 500000.0);
  EXPECT_EQ(llama3.type, "llama3");
  EXPECT_FALSE(Json::parse(llama3.scaling).contains("rope_theta"));
}

TEST(Rope, TakesAMissingThetaFromOutside) {
  EXPECT_EQ(llama(R"("rope_theta":5000,"rope_parameters":{"rope_type":"default"})").rope.theta, 5000.0);
  EXPECT_EQ(
      llama(R"("rope_theta":5000,"rope_parameters":{"rope_type":"default","rope_theta":7000})").rope.theta,
      7000.0);
  EXPECT_EQ(llama(R"("rope_parameters":{"rope_type":"default"})").rope.theta, 10000.0);
}

TEST(Rope, TakesTheScalingBeforeTheParameters) {
  const Rope rope = llama(R"("rope_theta":5000,"rope_scaling":{"type":"linear","factor":2},
                             "rope_parameters":{"rope_theta":7000,"rope_type":"dynamic","factor":4.0})")
                        .rope;
  EXPECT_EQ(rope.type, "linear");
  EXPECT_EQ(rope.theta, 5000.0);
}

TEST(Rope, TakesAnEmptyScalingForNone) {  // as `if rope_scaling:` in transformers does
  const Rope rope =
      llama(R"("rope_scaling":{},"rope_parameters":{"rope_theta":7000,"rope_type":"linear","factor":4.0})")
          .rope;
  EXPECT_EQ(rope.type, "linear");
  EXPECT_EQ(rope.theta, 7000.0);
  EXPECT_EQ(llama(R"("rope_scaling":{})").rope.type, "default");
  EXPECT_EQ(llama(R"("rope_scaling":null,"rope_parameters":null)").rope.theta, 10000.0);
}

TEST(Rope, KnowsTheOldNameOfTheType) {
  const Rope rope = llama(R"("rope_scaling":{"type":"linear","factor":2.5})").rope;
  EXPECT_EQ(rope.type, "linear");
  EXPECT_EQ(Json::parse(rope.scaling), Json::parse(R"({"rope_type":"linear","factor":2.5})"));
}

TEST(Rope, WritesFloatsAsFloatsAndTheLengthAsAWholeNumber) {
  const Rope rope =
      llama(
          R"("rope_scaling":{"rope_type":"yarn","factor":4,"original_max_position_embeddings":4096,"truncate":true})")
          .rope;
  const Json scaling = Json::parse(rope.scaling);
  EXPECT_TRUE(scaling["factor"].is_number_float());
  EXPECT_TRUE(scaling["original_max_position_embeddings"].is_number_integer());
  EXPECT_EQ(scaling["truncate"], true);
}

TEST(Rope, NeedsTheNumbersOfItsType) {
  EXPECT_EQ(llama(R"("rope_scaling":{"rope_type":"dynamic","factor":2.0})").rope.type, "dynamic");
  EXPECT_EQ(llama(R"("rope_scaling":{"rope_type":"yarn","factor":2.0})").rope.type, "yarn");
  for (const std::string type : {"linear", "dynamic", "yarn"})
    EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":")" + type + "\"}", {"'" + type + "'", "'factor'"}))
        << type;
  EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":"linear","factor":"2"})", {"'linear'", "'factor'"}));
  EXPECT_TRUE(refused(
      R"("rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192})",
      {"'llama3'", "'high_freq_factor'"}));
}

TEST(Rope, RefusesAKindThatCannotBeCarried) {
  EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":"longrope","short_factor":[1.0],"long_factor":[1.0]})",
                      {"'longrope'", "default, linear, dynamic, yarn, llama3"}));
  EXPECT_TRUE(refused(R"("rope_parameters":{"rope_type":"\u001b[2J"})", {"'\\x1b[2J'"}));
}

TEST(Rope, RefusesNumbersFromWhichNoFiniteRotationFollows) {
  for (const std::string theta : {"0", "-10000", "1e-308", "1", "1e31", "1e308"}) {
    EXPECT_TRUE(refused(R"("rope_theta":)" + theta, {"rope_theta is ", "from 2 to 1e+30"})) << theta;
    EXPECT_TRUE(refused(R"("rope_parameters":{"rope_type":"default","rope_theta":)" + theta + "}",
                        {"rope_theta is "}))
        << theta;
  }
  for (const std::string type : {"linear", "dynamic", "yarn"})
    for (const std::string factor : {"0", "-2", "1e-300", "1e300"})
      EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":")" + type + R"(","factor":)" + factor + "}",
                          {"'factor' of the rope scaling is ", "expected a number from "}))
          << type << factor;
  const auto llama3 = [](const std::string& key, const std::string& value) {
    Json scaling = Json::parse(
        R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192})");
    scaling[key] = Json::parse(value);
    return refused(R"("rope_scaling":)" + scaling.dump(), {key});
  };
  for (const std::string key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"})
    for (const std::string value : {"0", "-1", "1e300", "null", "true"})
      EXPECT_TRUE(llama3(key, value)) << key << value;
  EXPECT_TRUE(llama3("low_freq_factor", "4"));  // the same as the high one
}

TEST(Rope, RefusesOfYarnWhatHasAnotherType) {
  for (const std::string beta : {"beta_fast", "beta_slow"})  // the engine can't compute with it
    EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":"yarn","factor":2,")" + beta + R"(":1e-300})",
                        {beta, "is 1e-300, expected a number from 1e-06 to 1000000, or 0"}));
  for (const std::string key : {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                                "original_max_position_embeddings"})
    for (const std::string value : {"\"x\"", "true", "-1", "1e300"})
      EXPECT_TRUE(
          refused(R"("rope_scaling":{"rope_type":"yarn","factor":2,")" + key + "\":" + value + "}", {key}))
          << key << value;
  for (const std::string value : {"\"x\"", "1"})
    EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":"yarn","factor":2,"truncate":)" + value + "}",
                        {"'truncate'", "true or false"}))
        << value;
  EXPECT_EQ(
      llama(R"("rope_scaling":{"rope_type":"yarn","factor":2,"beta_fast":null,"beta_slow":0})").rope.type,
      "yarn");
  EXPECT_EQ(llama(R"("rope_scaling":{"rope_type":"yarn","factor":2,"truncate":null})").rope.type, "yarn");
}

TEST(Rope, RefusesAPartialRotationWhereverItStands) {
  EXPECT_TRUE(refused(R"("partial_rotary_factor":0.5)", {"partial_rotary_factor is 0.5", "full rotation"}));
  EXPECT_TRUE(refused(R"("rope_parameters":{"rope_type":"default","partial_rotary_factor":0.25})",
                      {"partial_rotary_factor is 0.25", "full rotation"}));
  EXPECT_EQ(
      llama(
          R"("partial_rotary_factor":1.0,"rope_parameters":{"rope_type":"default","partial_rotary_factor":1})")
          .rope.type,
      "default");
}

TEST(Rope, RefusesRubbish) {
  for (const std::string value : {"1", "\"linear\"", "[]", "[1]", "true", "false"})
    EXPECT_TRUE(refused(R"("rope_scaling":)" + value, {value, "expected an object"})) << value;
  for (const std::string value : {"0", "-1", "0.0"})
    EXPECT_TRUE(refused(R"("rope_theta":)" + value, {"rope_theta", "from 2 to 1e+30"})) << value;
  for (const std::string value : {"\"10000\"", "true", "[]", "{}"})
    EXPECT_TRUE(refused(R"("rope_theta":)" + value, {"rope_theta", "a number"})) << value;
  EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":7})", {"rope_type", "a string"}));
  EXPECT_TRUE(refused(R"("rope_scaling":{"rope_type":"yarn","factor":2.0,"extra":{"a":[1]}})", {"'extra'"}));
  // Per kind of layer, as Gemma has it.
  EXPECT_TRUE(
      refused(R"("rope_parameters":{"full_attention":{"rope_type":"default"}})", {"'full_attention'"}));
}

// What no target can hold.

TEST(DenseConfig, RefusesAnotherActivation) {
  EXPECT_TRUE(refused(R"("hidden_act":"gelu")", {"hidden_act", "'gelu'", "silu"}));
  EXPECT_EQ(llama(R"("hidden_act":"swish")").model_type, "llama");
  EXPECT_TRUE(refused(R"("hidden_act":["silu"])", {"hidden_act", "a string"}));
}

TEST(DenseConfig, RefusesQuantisedWeights) {
  EXPECT_TRUE(refused(R"("quantization_config":{"quant_method":"gptq","bits":4})",
                      {"quantization_config", "dequantise"}));
  EXPECT_EQ(llama(R"("quantization_config":null)").model_type, "llama");
}

TEST(DenseConfig, RefusesCodeOfItsOwn) {
  EXPECT_TRUE(
      refused(R"("auto_map":{"AutoModelForCausalLM":"modeling_x.X"})", {"auto_map", "code of its own"}));
}

TEST(DenseConfig, RefusesAMixtureOfExperts) {
  for (const std::string type : {"mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3"})
    EXPECT_TRUE(fails_with([&] { parse_dense_config(R"({"model_type":")" + type + "\"}", "x"); },
                           {"'" + type + "'", "a Mixture of Experts already"}));
}

TEST(DenseConfig, AnswersAnUnknownTypeWithThoseThereAre) {
  EXPECT_TRUE(fails_with([] { parse_dense_config(R"({"model_type":"lama"})", "x"); },
                         {"'lama'", "llama, mistral", "did you mean 'llama'?"}));
  EXPECT_TRUE(fails_with([] { parse_dense_config(R"({"model_type":"gpt_neox"})", "x"); },
                         {"'gpt_neox'", "llama, mistral"}));
  EXPECT_TRUE(fails_with([] { parse_dense_config("{}", "x"); }, {"model_type", "llama, mistral"}));
  EXPECT_TRUE(
      fails_with([] { parse_dense_config(R"({"model_type":1})", "x"); }, {"model_type is 1", "a string"}));
  EXPECT_TRUE(fails_with([] { parse_dense_config(R"({"model_type":"\u001b[2J"})", "x"); }, {"'\\x1b[2J'"}));
}

TEST(DenseConfig, RefusesHostileSizes) {
  for (const std::string key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings"})
    for (const std::string value :
         {"0", "-1", "2147483648", "1000000000000000000", "9223372036854775808", "18446744073709551615",
          "-9223372036854775808", "1e18", "1.5", "64.0", "\"64\"", "true", "[]", "{}"})
      EXPECT_TRUE(refused("\"" + key + "\":" + value, {key, "whole number from 1 to 2147483647"}))
          << key << " " << value;
  EXPECT_TRUE(fails_with([] { mistral(R"("sliding_window":0)"); }, {"sliding_window", "whole number"}));
}

TEST(DenseConfig, TakesSizesWhoseProductsStillFit) {
  const DenseConfig config =
      llama(R"("hidden_size":2147483647,"num_attention_heads":2147483647,"head_dim":2147483646)");
  EXPECT_EQ(config.num_heads * config.head_dim, 2147483647ll * 2147483646ll);
}

TEST(DenseConfig, RefusesMoreLayersThanAnyoneHas) {
  EXPECT_TRUE(
      refused(R"("num_hidden_layers":2000000000)", {"num_hidden_layers is 2000000000", "at most 10000"}));
}

TEST(DenseConfig, RefusesHeadsThatDoNotShareEvenly) {
  EXPECT_TRUE(refused(R"("num_attention_heads":32,"num_key_value_heads":5)",
                      {"num_attention_heads 32", "num_key_value_heads 5"}));
}

TEST(DenseConfig, RefusesFlagsAndNumbersOfAnotherType) {
  for (const std::string value : {"1", "\"true\"", "[]"})
    EXPECT_TRUE(
        refused(R"("tie_word_embeddings":)" + value, {"tie_word_embeddings is " + value, "true or false"}));
  for (const std::string value : {"\"1e-5\"", "true", "{}"})
    EXPECT_TRUE(refused(R"("rms_norm_eps":)" + value, {"rms_norm_eps is " + value, "a number"}));
}

// The JSON itself.

TEST(DenseConfig, RefusesWhatIsNotOneObject) {
  for (const std::string text :
       {"", "{", "{}}", "[", "null true", "{\"a\":}", "{'a':1}", "{\"a\":NaN}", "// {}"})
    EXPECT_TRUE(
        fails_with([&] { parse_dense_config(text, "x/config.json"); }, {"x/config.json: not valid JSON: "}))
        << text;
  for (const std::string text : {"[]", "1", "\"x\"", "null", "true", "1.5"})
    EXPECT_TRUE(
        fails_with([&] { parse_dense_config(text, "x/config.json"); }, {"x/config.json: ", "an object"}))
        << text;
}

TEST(DenseConfig, RefusesAKeyThatStandsTwice) {
  EXPECT_TRUE(refused(R"("hidden_size":64,"hidden_size":65)", {"'hidden_size' appears twice"}));
  EXPECT_TRUE(refused(R"("rope_scaling":{"factor":1.0,"\u0066actor":2.0})", {"'factor' appears twice"}));
  EXPECT_EQ(llama(R"("a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":1}])").unknown.size(), 3u);
}

TEST(DenseConfig, TakesTimeInProportionToItsText) {  // the parser's callbacks took a minute for this
  std::string objects;
  for (int i = 0; i < 300'000; ++i) objects += "{},";
  EXPECT_EQ(llama(R"("a":[)" + objects + "1]").unknown.size(), 1u);
}

TEST(DenseConfig, RefusesMoreValuesThanAnyoneHas) {
  std::string values;
  for (int i = 0; i < 2'000'001; ++i) values += "1,";
  EXPECT_TRUE(refused(R"("a":[)" + values + "1]", {"more than 2000000 values"}));
}

TEST(DenseConfig, RefusesMoreUnknownKeysThanANoteCanName) {
  std::string keys = R"("x":1)";
  for (int i = 0; i < 1000; ++i) keys += fmt::format(R"(,"x{}":1)", i);
  EXPECT_TRUE(refused(keys, {"1001 keys that no llama has"}));
}

TEST(DenseConfig, CutsTheNamesOfUnknownKeys) {
  EXPECT_LE(llama("\"" + std::string(10'000, 'x') + "\":1").unknown.at(0).size(), 103u);
  EXPECT_EQ(llama(R"("\u001b[2J":1)").unknown.at(0), "\\x1b[2J");
}

TEST(DenseConfig, RefusesDeepNesting) {
  EXPECT_TRUE(refused(R"("a":)" + std::string(1'000'000, '['), {"nested deeper than 64"}));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  EXPECT_TRUE(refused(R"("a":)" + objects, {"nested deeper than 64"}));
  EXPECT_EQ(llama(R"("a":)" + std::string(60, '[') + std::string(60, ']')).unknown.size(), 1u);
}

TEST(DenseConfig, RefusesZeroBytesAndBrokenUtf8) {
  EXPECT_TRUE(fails_with([] { parse_dense_config(std::string("{}\0", 3), "x"); }, {"zero byte"}));
  EXPECT_TRUE(fails_with([] { parse_dense_config("{\"\xff\":1}", "x"); }, {"not valid JSON"}));
  EXPECT_TRUE(fails_with([] { parse_dense_config("", "\x1b[2J"); }, {"\\x1b[2J: "}));
}

}  // namespace
}  // namespace upmoe
