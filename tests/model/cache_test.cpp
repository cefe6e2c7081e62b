// Logits computed piece by piece with a cache are those of one pass over everything.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "tests/fails_with.h"
#include "tests/model/models.h"

namespace upmoe::model {
namespace {

constexpr std::int64_t B = 2, T = 40;
// Of float32 sums in another order, over two layers; relative to the largest logit.
constexpr double kTolerance = 1e-5;

struct Case {
  const char* name;
  const char* extra = "{}";  // keys of config.json
  std::int64_t experts = 0;
  const char* model_type = "llama";
};
void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

// Contexts and windows are shorter than T, but for dynamic: that one turns every position anew when the
// longest grows, and keys in a cache stay as they are (in transformers too).
const std::vector<Case> kCases = {
    {"plain"},
    {"grouped_theta", R"({"rope_theta":500000.0,"num_key_value_heads":2})"},
    {"tied", R"({"tie_word_embeddings":true})"},
    {"linear", R"({"rope_scaling":{"rope_type":"linear","factor":2.0}})"},
    {"dynamic", R"({"rope_scaling":{"rope_type":"dynamic","factor":2.0}})"},
    {"yarn", R"({"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16}})"},
    {"llama3", R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
                   "high_freq_factor":4.0,"original_max_position_embeddings":16}})"},
    {"window", R"({"sliding_window":8})", 0, "mistral"},
    {"window_of_one", R"({"sliding_window":1})", 0, "mistral"},
    {"experts", "{}", 4},
    {"experts_and_window", R"({"sliding_window":8})", 4, "mistral"},
};

class Cache : public testing::TestWithParam<Case> {
 protected:
  Cache() {
    const test::TinyOptions options{
        .model_type = GetParam().model_type,
        .tied = std::string_view(GetParam().extra).find("tie_word") != std::string_view::npos,
        .extra = GetParam().extra};
    model_ = load(test::make_tiny_model(folder_.path(), options, GetParam().experts));
  }
  at::Tensor all_logits(const Input& input, KvCache* cache = nullptr) const {
    return logits(model_, hidden_states(model_, input, cache));
  }
  at::Tensor in_pieces(const at::Tensor& token_BT, std::int64_t piece) const {
    KvCache cache = make_cache(model_, B, T);
    std::vector<at::Tensor> out;
    for (std::int64_t t = 0; t < T; t += piece)
      out.push_back(all_logits({.token_BT = token_BT.narrow(1, t, std::min(piece, T - t))}, &cache));
    EXPECT_EQ(cache.length, T);
    return at::cat(out, /*dim=*/1);
  }

  const at::NoGradGuard no_gradients_;
  test::TempFolder folder_;
  Model model_;
};

TEST_P(Cache, GivesTheLogitsOfOnePass) {
  const at::Tensor token_BT = test::some_tokens(B, T), whole = all_logits({.token_BT = token_BT});
  for (const std::int64_t piece : {T, std::int64_t{17}, std::int64_t{3}, std::int64_t{1}})
    EXPECT_LE(test::relative_difference(in_pieces(token_BT, piece), whole), kTolerance) << piece;
}

TEST_P(Cache, IsNotReadBeyondItsLength) {
  // A longer cache, full of what is no number.
  const at::Tensor token_BT = test::some_tokens(B, T), whole = all_logits({.token_BT = token_BT});
  KvCache cache = make_cache(model_, B, 2 * T);
  for (auto* kept : {&cache.k_BSGD, &cache.v_BSGD})
    for (at::Tensor& one : *kept) one.fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_LE(test::relative_difference(all_logits({.token_BT = token_BT}, &cache), whole), kTolerance);
}

TEST_P(Cache, IsGoneBackInByShorteningIt) {
  const at::Tensor token_BT = test::some_tokens(B, T), last = token_BT.narrow(1, T / 2, T / 2);
  KvCache cache = make_cache(model_, B, T);
  all_logits({.token_BT = token_BT}, &cache);
  cache.length = T / 2;
  const at::Tensor again = all_logits({.token_BT = last}, &cache);
  EXPECT_LE(test::relative_difference(again, all_logits({.token_BT = token_BT}).narrow(1, T / 2, T / 2)),
            kTolerance);
}

TEST_P(Cache, RefusesMoreThanItHasRoomFor) {
  KvCache cache = make_cache(model_, B, T);
  EXPECT_TRUE(test::fails_with([&] { all_logits({.token_BT = test::some_tokens(B, T + 1)}, &cache); },
                               {"room for 40", "41"}));
}

INSTANTIATE_TEST_SUITE_P(All, Cache, testing::ValuesIn(kCases),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace upmoe::model
