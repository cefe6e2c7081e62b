#include "upmoe/checkpoint/dense_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"

namespace upmoe {
namespace {

using Json = nlohmann::json;

// Where the two families' defaults differ (transformers, configuration_llama.py and
// configuration_mistral.py).
struct Family {
  std::string_view model_type;
  ConfigDefaults defaults;
};
constexpr std::array kFamilies = {
    Family{"llama", {}},
    Family{"mistral",
           {.intermediate_size = 14336,
            .max_position_embeddings = 131072,
            .num_kv_heads = 8,
            .has_window = true,
            .sliding_window = 4096}},
};

// Keys that change nothing in what the model computes at inference, or that belong to other machinery.
const std::vector<std::string> kIgnored = {"_name_or_path",
                                           "_commit_hash",
                                           "_attn_implementation_autoset",
                                           "pretraining_tp",
                                           "use_cache",
                                           "transformers_version",
                                           "is_llama_config",
                                           "rope_interleaved",
                                           "transformers.js_config",
                                           "unsloth_version",
                                           "unsloth_fixed",
                                           "output_attentions",
                                           "output_hidden_states",
                                           "return_dict",
                                           "architectures",
                                           "bos_token",
                                           "eos_token",
                                           "tokenizer_class",
                                           "chunk_size_feed_forward",
                                           "cross_attention_hidden_size",
                                           "add_cross_attention",
                                           "is_decoder",
                                           "is_encoder_decoder",
                                           "id2label",
                                           "label2id",
                                           "problem_type",
                                           "prefix",
                                           "finetuning_task",
                                           "task_specific_params",
                                           "use_bfloat16",
                                           "torchscript",
                                           "pruned_heads",
                                           "tie_encoder_decoder",
                                           "decoder_start_token_id",
                                           "sep_token_id",
                                           "cls_token_id",
                                           "max_sequence_length",
                                           "attn_implementation",
                                           "max_length",
                                           "min_length",
                                           "do_sample",
                                           "early_stopping",
                                           "num_beams",
                                           "temperature",
                                           "top_k",
                                           "top_p",
                                           "typical_p",
                                           "repetition_penalty",
                                           "length_penalty",
                                           "no_repeat_ngram_size",
                                           "encoder_no_repeat_ngram_size",
                                           "bad_words_ids",
                                           "num_return_sequences",
                                           "output_scores",
                                           "return_dict_in_generate",
                                           "forced_bos_token_id",
                                           "forced_eos_token_id",
                                           "remove_invalid_values",
                                           "exponential_decay_length_penalty",
                                           "suppress_tokens",
                                           "begin_suppress_tokens",
                                           "num_beam_groups",
                                           "diversity_penalty",
                                           "tf_legacy_loss",
                                           "layer_types"};

constexpr std::size_t kMostUnknown = 1000;  // each is named in a note

// Reads keys one by one and remembers which were asked for, so that what is left is known to be unknown.
class Reader {
 public:
  Reader(const Json& json, std::string_view where) : json_(json), where_(printable(where)) {}

  const Json* find(const std::string& key) {
    asked_.push_back(key);
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  bool has(const std::string& key) const { return json_.contains(key); }

  // A size: at least 1, at most 2^31-1, so that products of two sizes fit.
  std::int64_t size(const std::string& key, std::int64_t preset) {
    const Json* value = find(key);
    if (value == nullptr) return preset;
    require(value->is_number_integer() && *value >= 1 && *value <= std::numeric_limits<std::int32_t>::max(),
            "{}: {} is {}, expected a whole number from 1 to 2147483647", where_, key, shown(*value));
    return value->get<std::int64_t>();
  }
  double number(const std::string& key, double preset) {
    const Json* value = find(key);
    if (value == nullptr) return preset;
    require(value->is_number() && std::isfinite(value->get<double>()), "{}: {} is {}, expected a number",
            where_, key, shown(*value));
    return value->get<double>();
  }
  double number(const std::string& key, double preset, double least, double most) {
    const double value = number(key, preset);
    require(value >= least && value <= most, "{}: {} is {}, expected a number from {} to {}", where_, key,
            value, least, most);
    return value;
  }
  bool flag(const std::string& key, bool preset) {
    const Json* value = find(key);
    if (value == nullptr) return preset;
    require(value->is_boolean(), "{}: {} is {}, expected true or false", where_, key, shown(*value));
    return value->get<bool>();
  }
  std::string text(const std::string& key, std::string preset) {
    const Json* value = find(key);
    if (value == nullptr) return preset;
    require(value->is_string(), "{}: {} is {}, expected a string", where_, key, shown(*value));
    return value->get<std::string>();
  }
  // A token id: a number, a list of numbers (eos of Llama 3), or null. Negative ids of LLaMA-1 mean "none",
  // and so does the family's where the vocabulary has no such token.
  std::string token(const std::string& key, const char* preset, std::int64_t vocabulary) {
    const Json* value = find(key);
    if (value == nullptr) return has(key) || Json::parse(preset) >= vocabulary ? std::string("null") : preset;
    if (value->is_number_integer() && !value->is_number_unsigned()) return "null";
    const auto is_id = [&](const Json& id) {
      return id.is_number_unsigned() && id.get<std::uint64_t>() < static_cast<std::uint64_t>(vocabulary);
    };
    require(is_id(*value) || (value->is_array() && !value->empty() && std::ranges::all_of(*value, is_id)),
            "{}: {} is {}, expected a token id, from 0 to {}, a list of them, or null", where_, key,
            shown(*value), vocabulary - 1);
    return value->dump();
  }
  // Every key that nobody has asked for.
  std::vector<std::string> rest() const {
    std::vector<std::string> out;
    for (const auto& [key, value] : json_.items())
      if (std::ranges::find(asked_, key) == asked_.end()) out.push_back(key);
    return out;
  }
  const std::string& where() const { return where_; }
  static std::string shown(const Json& value) {
    return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
  }

 private:
  const Json& json_;
  std::string where_;
  std::vector<std::string> asked_;
};

// Beyond any that was published; within, every frequency is a float32.
constexpr double kLeastTheta = 2, kMostTheta = 1e30;
constexpr double kMostFactor = 1e6;

// A key of the rope scaling that its kind computes with.
struct RopeNumber {
  std::string_view name;
  double least, most;
  bool required = false;
  bool may_be_zero = false;  // for transformers' preset
};

// What a kind of rope scaling has (transformers, modeling_rope_utils.py).
struct RopeKind {
  std::string_view type;
  std::vector<RopeNumber> numbers;
};

const RopeKind& find_rope_kind(const std::string& type, const std::string& where) {
  constexpr double kTiny = 1e-6, kSize = std::numeric_limits<std::int32_t>::max();
  static const RopeNumber kFactor{"factor", kTiny, kMostFactor, true};
  static const std::vector<RopeKind> kKinds = {
      {"default", {}},
      {"linear", {kFactor}},
      {"dynamic", {kFactor}},
      {"yarn",
       {kFactor,
        {"original_max_position_embeddings", 1, kSize},
        {"attention_factor", kTiny, kMostFactor},
        {"beta_fast", kTiny, kMostFactor, /*required=*/false, /*may_be_zero=*/true},
        {"beta_slow", kTiny, kMostFactor, /*required=*/false, /*may_be_zero=*/true},
        {"mscale", 0, kMostFactor},
        {"mscale_all_dim", 0, kMostFactor}}},
      {"llama3",
       {kFactor,
        {"original_max_position_embeddings", 1, kSize, true},
        {"low_freq_factor", kTiny, kMostFactor, true},
        {"high_freq_factor", kTiny, kMostFactor, true}}},
  };
  const auto kind = std::ranges::find(kKinds, type, &RopeKind::type);
  require(kind != kKinds.end(),
          "{}: rope scaling '{}' is not supported; expected one of: default, linear, dynamic, yarn, llama3",
          where, printable(type));
  return *kind;
}

void check_rope(const Json& scaling, const std::string& type, const std::string& where) {
  for (const RopeNumber& number : find_rope_kind(type, where).numbers) {
    const auto found = scaling.find(number.name);
    const bool is_there = found != scaling.end() && !found->is_null();
    if (!is_there && !number.required) continue;
    require(is_there && found->is_number(), "{}: rope scaling '{}' needs a number '{}'{}", where, type,
            number.name, is_there ? ", and it is " + Reader::shown(*found) : "");
    const auto value = found->get<double>();
    require((value >= number.least && value <= number.most) || (number.may_be_zero && value == 0),
            "{}: '{}' of the rope scaling is {}, expected a number from {} to {}{}", where, number.name,
            value, number.least, number.most, number.may_be_zero ? ", or 0" : "");
  }
  if (type == "llama3")
    require(scaling.at("low_freq_factor").get<double>() < scaling.at("high_freq_factor").get<double>(),
            "{}: low_freq_factor {} of the rope scaling is not below high_freq_factor {}", where,
            scaling.at("low_freq_factor").get<double>(), scaling.at("high_freq_factor").get<double>());
  if (const auto truncate = scaling.find("truncate"); truncate != scaling.end())
    require(truncate->is_boolean() || truncate->is_null(),
            "{}: 'truncate' of the rope scaling is {}, expected true or false", where,
            Reader::shown(*truncate));
  for (const auto& [key, value] : scaling.items())
    require(value.is_number() || value.is_boolean() || value.is_string() || value.is_null(),
            "{}: '{}' of the rope scaling is {}", where, printable(key), Reader::shown(value));
}

// One spelling out of three: rope_theta + rope_scaling (v4), rope_parameters (v5), nothing. As in
// transformers 5 a rope_scaling object that is not empty replaces rope_parameters, and a theta that is
// missing inside is taken from outside.
Rope read_rope(Reader& config, double default_theta) {
  const Json* parameters = config.find("rope_parameters");
  const Json* v4 = config.find("rope_scaling");
  if (v4 != nullptr && *v4 != Json::object()) parameters = v4;
  Rope rope{.theta = config.number("rope_theta", default_theta, kLeastTheta, kMostTheta)};
  if (parameters != nullptr) {
    require(parameters->is_object(), "{}: rope scaling is {}, expected an object", config.where(),
            Reader::shown(*parameters));
    Reader inner(*parameters, config.where());
    rope.theta = inner.number("rope_theta", rope.theta, kLeastTheta, kMostTheta);
    rope.type = inner.text("rope_type", inner.text("type", "default"));
    const double partial = inner.number("partial_rotary_factor", 1.0);
    require(partial == 1.0, "{}: partial_rotary_factor is {}, and only a full rotation (1.0) is supported",
            config.where(), partial);
    Json scaling = *parameters;
    for (const char* key : {"rope_theta", "type", "rope_type", "partial_rotary_factor"}) scaling.erase(key);
    check_rope(scaling, rope.type, config.where());
    if (rope.type != "default") {
      // transformers 4 wants floats to be floats, and original_max_position_embeddings to be a whole number.
      for (auto& [key, value] : scaling.items())
        if (value.is_number_integer() && key != "original_max_position_embeddings")
          value = value.get<double>();
      scaling["rope_type"] = rope.type;
      rope.scaling = scaling.dump();
    }
  }
  return rope;
}

const Family& find_family(Reader& config) {
  const std::string type = config.text("model_type", "");
  const auto* family = std::ranges::find(kFamilies, type, &Family::model_type);
  if (family != kFamilies.end()) return *family;
  static const std::vector<std::string> kMoe = {
      "mixtral",  "qwen2_moe",    "qwen3_moe", "granitemoe",  "granitemoeshared",
      "glm4_moe", "ernie4_5_moe", "olmoe",     "deepseek_v2", "deepseek_v3"};
  require(
      std::ranges::find(kMoe, type) == kMoe.end(),
      "{}: model_type is '{}': this is a Mixture of Experts already; a dense llama or mistral is expected",
      config.where(), printable(type));
  static const std::vector<std::string> kKnown = {"llama", "mistral"};
  fail("{}: model_type is '{}'; there are: {}{}", config.where(), printable(type), join(kKnown),
       guess(type, kKnown));
}

void refuse_what_no_target_holds(Reader& config) {
  const std::string act = config.text("hidden_act", "silu");
  require(act == "silu" || act == "swish",
          "{}: hidden_act is '{}', and only silu is supported: every target computes SwiGLU experts",
          config.where(), printable(act));
  const double partial = config.number("partial_rotary_factor", 1.0);
  require(partial == 1.0, "{}: partial_rotary_factor is {}, and only a full rotation (1.0) is supported",
          config.where(), partial);
  require(config.find("quantization_config") == nullptr,
          "{}: the weights are quantised (quantization_config); dequantise them first, for example load with "
          "transformers and "
          "save_pretrained in bfloat16",
          config.where());
  require(config.find("auto_map") == nullptr,
          "{}: the model runs code of its own (auto_map), so it may not compute what a plain {} does",
          config.where(), "Llama");
}

DenseConfig read_config(Reader& config, std::string_view model_type, const ConfigDefaults& defaults,
                        const std::vector<std::string>& own_keys) {
  refuse_what_no_target_holds(config);
  DenseConfig out{.model_type = std::string(model_type)};
  out.vocab_size = config.size("vocab_size", 32000);
  out.hidden_size = config.size("hidden_size", 4096);
  out.intermediate_size = config.size("intermediate_size", defaults.intermediate_size);
  out.num_layers = config.size("num_hidden_layers", 32);
  out.num_heads = config.size("num_attention_heads", 32);
  // A key that is there and null means "as many as heads"; one that is absent means the family's default.
  out.num_kv_heads = config.size("num_key_value_heads", config.has("num_key_value_heads")
                                                            ? out.num_heads
                                                            : defaults.num_kv_heads.value_or(out.num_heads));
  require(config.find("head_dim") != nullptr || out.hidden_size % out.num_heads == 0,
          "{}: hidden_size {} is not a multiple of num_attention_heads {}, and there is no head_dim",
          config.where(), out.hidden_size, out.num_heads);
  out.head_dim = config.size("head_dim", std::max<std::int64_t>(1, out.hidden_size / out.num_heads));
  require(out.head_dim % 2 == 0, "{}: head_dim is {}, expected an even number: the rotation takes pairs",
          config.where(), out.head_dim);
  require(out.num_heads % out.num_kv_heads == 0,
          "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", config.where(),
          out.num_heads, out.num_kv_heads);
  require(out.num_layers <= 10'000, "{}: num_hidden_layers is {}, expected at most 10000", config.where(),
          out.num_layers);
  out.max_position_embeddings = config.size("max_position_embeddings", defaults.max_position_embeddings);
  out.rms_norm_eps = config.number("rms_norm_eps", defaults.rms_norm_eps, 0, 1);
  out.initializer_range = config.number("initializer_range", 0.02, 0, 100);
  out.rope = read_rope(config, defaults.rope_theta);
  if (defaults.has_window) {
    if (config.find("sliding_window") != nullptr)
      out.sliding_window = config.size("sliding_window", 1);
    else if (!config.has("sliding_window"))
      out.sliding_window = defaults.sliding_window;
  }
  out.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  out.attention_bias = config.flag("attention_bias", false);
  out.mlp_bias = config.flag("mlp_bias", false);
  out.attention_dropout = config.number("attention_dropout", 0.0, 0, 1);
  out.torch_dtype = config.text("dtype", config.text("torch_dtype", ""));
  out.bos_token_id = config.token("bos_token_id", "1", out.vocab_size);
  out.eos_token_id = config.token("eos_token_id", "2", out.vocab_size);
  out.pad_token_id = config.token("pad_token_id", "null", out.vocab_size);
  for (const std::string& key : config.rest())
    if (!is_ignored_key(key) && std::ranges::find(own_keys, key) == own_keys.end())
      out.unknown.push_back(printable(key, 100));
  require(out.unknown.size() <= kMostUnknown, "{}: has {} keys that no {} has; is it a config.json?",
          config.where(), out.unknown.size(), out.model_type);
  return out;
}

}  // namespace

DenseConfig parse_dense_config(std::string_view text, std::string_view where) {
  const Json json = parse_json_object(text, where);
  Reader config(json, where);
  const Family& family = find_family(config);
  return read_config(config, family.model_type, family.defaults, {});
}

DenseConfig parse_llama_like_config(std::string_view text, std::string_view where,
                                    const ConfigDefaults& defaults,
                                    const std::vector<std::string>& own_keys) {
  const Json json = parse_json_object(text, where);
  Reader config(json, where);
  const std::string model_type = config.text("model_type", "");
  return read_config(config, model_type, defaults, own_keys);
}

bool is_ignored_key(std::string_view key) { return std::ranges::find(kIgnored, key) != kIgnored.end(); }

}  // namespace upmoe
