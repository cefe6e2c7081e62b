#include "upmoe/inspect/receipt.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/parallel.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/dense_model.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/inspect/files_receipt.h"
#include "upmoe/inspect/layer_receipt.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/target/registry.h"

namespace upmoe {
namespace {

constexpr std::string_view kHead = "lm_head.weight", kEmbedding = "model.embed_tokens.weight";

// A weight outside the FFNs, in both models.
struct Pair {
  const DenseModel::Weight* dense = nullptr;  // null: only the other model has it
  std::string name;
  std::string what;  // empty: identical
  std::string dense_hash, moe_hash;
};

void compare(Pair& pair, const Weights& moe) {
  const auto it = moe.entries().find(pair.name);
  if (pair.dense != nullptr) {
    pair.dense_hash = hex(xxh3(pair.dense->stored.data()));
    release(pair.dense->stored.data());
  }
  if (it == moe.entries().end()) {
    pair.what = "is missing";
    return;
  }
  const TensorInfo& info = *it->second.info;
  pair.moe_hash = hex(xxh3(it->second.data()));
  release(it->second.data());
  if (pair.dense == nullptr)
    pair.what = "is additional";
  else if (info.shape != pair.dense->is.shape)
    pair.what = fmt::format("is {} instead of {}", shape_text(info.shape), shape_text(pair.dense->is.shape));
  else if (info.dtype != pair.dense->stored.info->dtype)
    pair.what = fmt::format("is {} instead of {}", name(info.dtype), name(pair.dense->stored.info->dtype));
  else if (pair.moe_hash != pair.dense_hash)
    pair.what = "differs";
}

std::vector<Pair> pair_others(const DenseModel& dense, const MoeWeights& moe, const Weights& weights) {
  std::vector<Pair> out;
  std::map<std::string, bool> known;  // names
  const auto add = [&](const DenseModel::Weight* weight, const std::string& name) {
    out.push_back({.dense = weight, .name = name});
    known[name] = true;
  };
  for (const DenseModel::Weight& weight : dense.weights())
    if (weight.is.role != Role::matrix) add(&weight, weight.is.name);
  if (dense.config().tie_word_embeddings && weights.entries().contains(kHead))
    add(&*std::ranges::find(dense.weights(), kEmbedding, [](const auto& weight) { return weight.is.name; }),
        std::string(kHead));
  for (std::int64_t l = 0; l < moe.num_layers(); ++l)
    for (const std::string& name : moe.names(l)) known[name] = true;
  for (const auto& [name, entry] : weights.entries())
    if (!known.contains(name)) add(nullptr, name);
  return out;
}

// Names of tensors whose hash is not the recorded one, or that are only on one side.
std::vector<std::string> not_as_recorded(const Hashes& recorded, const Hashes& found, bool all_recorded) {
  std::vector<std::string> out;
  for (const auto& [name, hash] : recorded) {
    const auto it = found.find(name);
    if (it == found.end())
      out.push_back(name + " is missing");
    else if (it->second != hash)
      out.push_back(name + " has other bytes");
  }
  if (all_recorded)
    for (const auto& [name, hash] : found)
      if (!recorded.contains(name)) out.push_back(name + " is additional");
  return out;
}

class Maker {
 public:
  Maker(const std::filesystem::path& moe, const std::filesystem::path& against, std::size_t threads)
      : threads_(threads),
        where_(printable(moe.string())),
        folder_(moe),
        target_(find_target()),
        dense_(against),
        weights_(folder_),
        moe_(weights_, target_, config_, where_) {
    const DenseConfig& dense = dense_.config();
    require(moe_.num_layers() == dense.num_layers && moe_.H() == dense.hidden_size,
            "{} has {} layers of hidden size {}, and {} has {} of {}: it was not converted from that model",
            where_, moe_.num_layers(), moe_.H(), printable(against.string()), dense.num_layers,
            dense.hidden_size);
    if (folder_.has("upmoe.json"))
      record_ = parse_record(read_small_file(folder_.file("upmoe.json", where_), 64u << 20),
                             (moe / "upmoe.json").string());
  }

  Receipt make() {
    Receipt out{.num_layers = moe_.num_layers(),
                .num_experts = moe_.shape().experts,
                .top_k = moe_.shape().per_token,
                .dense_size = dense_.config().intermediate_size,
                .expert_size = moe_.shape().expert_size};
    if (record_) {
      out.method = record_->method_name;
      out.promised_exact = record_->exact;
      out.not_exact_because = record_->not_exact_because;
      hold_shape(out);
    }
    compare_layers(out);
    compare_others(out);
    weights_.require_intact();
    dense_.files().require_intact();
    if (record_) {
      hold_hashes(out);
      hold_files(out);
    }
    return out;
  }

 private:
  const Target& find_target() {
    const std::string where = (folder_.path() / "config.json").string();
    config_ = parse_json_object(folder_.config(), where);
    const auto type = config_.find("model_type");
    for (const Target& target : target::targets())
      if (type != config_.end() && *type == target.model_type) return target;
    fail("{}: is not a Mixture of Experts that upmoe supports: model_type is {}", printable(where),
         type == config_.end() ? "missing" : printable(type->dump()));
  }

  // Whether there are as many experts as recorded, as large as the method makes them. The drafts of a method
  // fit only then.
  void hold_shape(Receipt& out) {
    const MoeShape is = moe_.shape();
    try {
      promised_shape_ = record_->method->shape(record_->asked, dense_.config());
    } catch (const UsageError& error) {
      fail("{}: upmoe.json: {}", where_, error.what());
    }
    Promise promise{"shape",
                    fmt::format("{} experts of {} neurons, top-{}", promised_shape_.experts,
                                promised_shape_.expert_size, promised_shape_.per_token),
                    {}};
    if (is.experts != promised_shape_.experts || is.expert_size != promised_shape_.expert_size)
      promise.broken.push_back(fmt::format("there are {} experts of {}", is.experts, is.expert_size));
    fits_ = promise.broken.empty();
    if (is.per_token != promised_shape_.per_token)
      promise.broken.push_back(fmt::format("config.json says top-{}", is.per_token));
    out.promises.push_back(std::move(promise));
  }

  void compare_layers(Receipt& out) {
    std::vector<LayerReceipt> layers(static_cast<std::size_t>(moe_.num_layers()));
    const Record* record = record_ && fits_ ? &*record_ : nullptr;
    parallel_for(layers.size(), threads_, [&](std::size_t l) {
      layers[l] = compare_layer(dense_, moe_, target_, static_cast<std::int64_t>(l), record, promised_shape_);
    });
    Promise promise{"neurons", "", {}};
    std::int64_t promised = 0, held = 0;
    for (LayerReceipt& layer : layers) {
      out.kept.push_back(std::move(layer.kept_E));
      out.covered.push_back(layer.covered);
      for (const auto& [what, count] : layer.dtypes) out.dtypes[what] += count;
      output_.merge(layer.output);
      source_.merge(layer.source);
      promised += layer.promised;
      held += layer.held;
      promise.broken.insert(promise.broken.end(), layer.broken.begin(), layer.broken.end());
    }
    if (record == nullptr) return;
    promise.text = promised == 0 ? fmt::format("'{}' keeps nothing of the FFNs", record->method_name)
                                 : fmt::format("{} of {} rows and columns that '{}' keeps are the source's",
                                               held, promised, record->method_name);
    out.promises.push_back(std::move(promise));
  }

  void compare_others(Receipt& out) {
    std::vector<Pair> pairs = pair_others(dense_, moe_, weights_);
    parallel_for(pairs.size(), threads_, [&](std::size_t i) { compare(pairs[i], weights_); });
    Promise promise{"others", "", {}};
    std::int64_t promised = 0;
    for (Pair& pair : pairs) {
      if (!pair.moe_hash.empty()) output_[pair.name] = pair.moe_hash;
      if (pair.dense != nullptr) source_[pair.dense->is.name] = pair.dense_hash;
      if (pair.dense != nullptr && record_ && is_copied(*pair.dense)) {
        ++promised;
        if (!pair.what.empty()) promise.broken.push_back(pair.name + " " + pair.what);
      }
      count(out, pair);
    }
    if (!record_) return;
    promise.text = promised == 0
                       ? fmt::format("'{}' keeps nothing outside the FFNs", record_->method_name)
                       : fmt::format("{} of {} tensors outside the FFNs are the source's",
                                     promised - static_cast<std::int64_t>(promise.broken.size()), promised);
    out.promises.push_back(std::move(promise));
  }

  void count(Receipt& out, const Pair& pair) const {
    const auto it = weights_.entries().find(pair.name);
    if (pair.dense != nullptr && it != weights_.entries().end())
      if (const Dtype before = pair.dense->stored.info->dtype, now = it->second.info->dtype; before != now)
        ++out.dtypes[fmt::format("{} to {}", name(before), name(now))];
    if (pair.name == kHead && pair.dense != nullptr && pair.dense->is.name == kEmbedding) {
      out.head_written_out = true;
      if (pair.what.empty()) return;
    } else if (pair.dense != nullptr) {
      ++out.others;
      out.identical += pair.what.empty();
    }
    if (!pair.what.empty()) out.not_identical.push_back({pair.name, pair.what});
  }

  bool is_copied(const DenseModel::Weight& weight) const {
    return std::holds_alternative<Copy>(
        record_->method->weight(weight.is, dense_.config(), weight_key(record_->seed, weight.is)));
  }

  void hold_hashes(Receipt& out) const {
    const auto add = [&](const char* name, const char* text, const Hashes& recorded,
                         std::vector<std::string> broken) {
      const std::size_t wrong = std::min(recorded.size(), broken.size());
      out.promises.push_back({name,
                              fmt::format("{} of {} {}", recorded.size() - wrong, recorded.size(), text),
                              std::move(broken)});
    };
    add("output", "tensors have the bytes that were written", record_->output,
        not_as_recorded(record_->output, output_, /*all_recorded=*/true));
    std::vector<std::string> source = not_as_recorded(record_->source, source_, /*all_recorded=*/false);
    if (hex(xxh3(dense_.config_text())) != record_->source_config)
      source.emplace_back("config.json has other bytes");
    add("source", "tensors of the source have the bytes that were read", record_->source, std::move(source));
  }

  // All that is not a tensor. config.json is the one that was written, or says the same field by field.
  void hold_files(Receipt& out) const {
    out.notes = record_->notes;
    FilesReceipt files;
    if (record_->version < 2) {
      out.notes.emplace_back(
          "upmoe.json is of version 1, which has no hashes of files: tokenizer, templates, recipe and other "
          "files are not checked");
    } else {
      files = compare_files(folder_, weights_, *record_);
      out.notes.insert(out.notes.end(), files.notes.begin(), files.notes.end());
      out.promises.push_back(
          {"files",
           fmt::format("{} of {} files beside the weights have the bytes that were written",
                       files.num_files - files.broken.size(), files.num_files),
           files.broken});
    }
    Promise promise{"config", "config.json is what source and record say", {}};
    if (!files.has_config_as_written) {
      const auto expected =
          target_.config(dense_.config(), promised_shape_,
                         dense_.config().tie_word_embeddings && record_->keep_tied, dense_.torch_dtype());
      ConfigDifferences differences = config_differences(config_, nlohmann::json::parse(expected.dump()));
      promise.broken = std::move(differences.broken);
      if (promise.broken.empty() && record_->files.contains("config.json"))
        out.notes.emplace_back(
            "config.json has other bytes than were written, and every field is as expected");
      for (const std::string& what : differences.notes) out.notes.push_back("config.json: " + what);
    }
    out.promises.push_back(std::move(promise));
  }

  std::size_t threads_;
  std::string where_;
  Folder folder_;
  nlohmann::json config_;
  const Target& target_;
  DenseModel dense_;
  Weights weights_;
  MoeWeights moe_;
  std::optional<Record> record_;
  MoeShape promised_shape_;
  bool fits_ = false;
  Hashes output_, source_;  // found
};

}  // namespace

Receipt make_receipt(const std::filesystem::path& moe, const std::filesystem::path& against,
                     std::size_t threads) {
  try {
    return Maker(moe, against, threads).make();
  } catch (const nlohmann::json::type_error& error) {
    fail("{}: a value of the wrong type: {}", printable((moe / "config.json").string()),
         printable(error.what()));
  }
}

}  // namespace upmoe
