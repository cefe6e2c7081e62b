// T positions, V vocabulary.
#include "upmoe/model/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/ops/largest.h"

namespace upmoe::model {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr std::int64_t kPiece = 512;  // of a prompt, at most: bounds how long an interrupt waits

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// For so many positions: it grows with what is generated, not with what may be.
void make_room(KvCache& cache, std::int64_t positions) {
  const std::int64_t room = cache.k_BSGD.at(0).size(1);
  if (positions <= room) return;
  for (auto* kept : {&cache.k_BSGD, &cache.v_BSGD})
    for (at::Tensor& x_BSGD : *kept) {
      const at::Tensor larger_BSGD =
          at::empty({1, std::max(positions, 2 * room), x_BSGD.size(2), x_BSGD.size(3)}, x_BSGD.options());
      larger_BSGD.narrow(1, 0, cache.length).copy_(x_BSGD.narrow(1, 0, cache.length));
      x_BSGD = larger_BSGD;
    }
}

// What follows the tokens, which are appended to the cache.
std::vector<float> next_logits(const Model& model, std::span<const std::int64_t> tokens, KvCache& cache) {
  const auto T = static_cast<std::int64_t>(tokens.size());
  make_room(cache, cache.length + T);
  const at::Tensor token_BT =
      at::from_blob(const_cast<std::int64_t*>(tokens.data()), {1, T}, at::kLong).to(model.device, at::kLong);
  const at::Tensor last = hidden_states(model, {.token_BT = token_BT}, &cache).narrow(1, T - 1, 1);
  const at::Tensor logits_V = logits(model, last).flatten().to(at::kCPU).contiguous();
  require(std::isfinite(ops::largest(logits_V)),
          "{}the logits are not finite: the weights or the activations have overflowed", model.where);
  return {logits_V.const_data_ptr<float>(), logits_V.const_data_ptr<float>() + logits_V.numel()};
}

std::vector<std::int64_t> ids(const Json& said) {
  std::vector<std::int64_t> out;
  for (const Json& one : said.is_array() ? said : Json::array({said}))
    if (one.is_number_integer() && one >= 0) out.push_back(one.get<std::int64_t>());
  return out;
}

}  // namespace

std::vector<std::int64_t> end_tokens(const Folder& folder, const ModelConfig& config) {
  if (folder.has("generation_config.json")) {
    const std::filesystem::path path = folder.file("generation_config.json", "a checkpoint");
    const Json json = parse_json_object(read_small_file(path), path.string());
    const auto said = json.find("eos_token_id");
    if (said != json.end() && !said->is_null()) return ids(*said);
  }
  return ids(Json::parse(config.llama.eos_token_id));
}

Generated generate(const Model& model, std::span<const std::int64_t> prompt, const GenerateOptions& options,
                   const std::function<void(std::int64_t)>& on_token) {
  check(options.sampling);
  const auto num_prompt = static_cast<std::int64_t>(prompt.size());
  const std::int64_t context = model.config.llama.max_position_embeddings;
  require(num_prompt > 0, "the prompt has no token to continue");
  require(num_prompt < context,
          "the prompt has {} tokens; with a new one it exceeds the model's {}-token context", num_prompt,
          context);
  const std::int64_t most = std::min(options.max_tokens, context - num_prompt);
  Generated out;
  out.stop = most < options.max_tokens ? Generated::Stop::context : Generated::Stop::max_tokens;
  if (most <= 0) return out;

  const at::NoGradGuard no_gradients;
  KvCache cache = make_cache(model, /*sequences=*/1, num_prompt + std::min(most, kPiece));
  std::vector<float> logits_V;
  const Clock::time_point start = Clock::now();
  const std::int64_t piece = tokens_at_once(model.config, kPiece);
  for (std::int64_t begin = 0; begin < num_prompt; begin += piece) {
    if (options.is_interrupted()) {
      out.stop = Generated::Stop::interrupt;
      return out;
    }
    logits_V = next_logits(model, prompt.subspan(begin, std::min(piece, num_prompt - begin)), cache);
  }
  out.prompt_seconds = seconds_since(start);
  const Clock::time_point first = Clock::now();
  while (true) {
    const auto position = static_cast<std::uint64_t>(num_prompt) + out.tokens.size();
    const std::int64_t token = sample(logits_V, options.sampling, position);
    out.tokens.push_back(token);
    out.seconds = seconds_since(first);
    if (on_token) on_token(token);
    if (std::ranges::find(options.end, token) != options.end.end()) {
      out.stop = Generated::Stop::end_token;
      return out;
    }
    if (static_cast<std::int64_t>(out.tokens.size()) == most) return out;
    if (options.is_interrupted()) {
      out.stop = Generated::Stop::interrupt;
      return out;
    }
    logits_V = next_logits(model, {&out.tokens.back(), 1}, cache);
  }
}

}  // namespace upmoe::model
