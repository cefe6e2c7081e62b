#include "upmoe/model/generate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/fails_with.h"
#include "tests/model/models.h"

namespace upmoe::model {
namespace {

using Ids = std::vector<std::int64_t>;

class Generate : public testing::TestWithParam<std::int64_t> {  // experts
 protected:
  Generate() : place_(test::make_tiny_model(folder_.path(), {}, GetParam())), model_(load(place_)) {}

  test::TempFolder folder_;
  std::filesystem::path place_;
  Model model_;
};

TEST_P(Generate, GreedyTakesTheLargestLogitOfAFullPassEveryTime) {
  const at::NoGradGuard no_gradients;
  Ids wanted = {1, 7, 30};
  for (int i = 0; i < 12; ++i) {
    const at::Tensor token_BT = at::tensor(wanted).unsqueeze(0);
    wanted.push_back(
        logits(model_, hidden_states(model_, {.token_BT = token_BT}))[0][-1].argmax().item<std::int64_t>());
  }
  Ids told;
  const Generated found =
      generate(model_, Ids{1, 7, 30}, {.max_tokens = 12}, [&](std::int64_t token) { told.push_back(token); });
  EXPECT_EQ(found.tokens, Ids(wanted.begin() + 3, wanted.end()));
  EXPECT_EQ(told, found.tokens);
  EXPECT_EQ(found.stop, Generated::Stop::max_tokens);
}

TEST_P(Generate, ALongPromptIsReadInPiecesAndNothingChanges) {
  const at::NoGradGuard no_gradients;
  const test::TempFolder folder;
  const Model model = load(
      test::make_tiny_model(folder.path(), {.extra = R"({"max_position_embeddings":2048})"}, GetParam()));
  const at::Tensor prompt_BT = test::some_tokens(1, 1100);
  const Ids prompt(prompt_BT.const_data_ptr<std::int64_t>(), prompt_BT.const_data_ptr<std::int64_t>() + 1100);
  EXPECT_EQ(
      generate(model, prompt, {.max_tokens = 1}).tokens[0],
      logits(model, hidden_states(model, {.token_BT = prompt_BT}))[0][-1].argmax().item<std::int64_t>());
}

TEST_P(Generate, RoomGrowsWithWhatIsGeneratedAndNotWithWhatMayBe) {
  const test::TempFolder folder;
  const Model model = load(test::make_tiny_model(
      folder.path(), {.extra = R"({"max_position_embeddings":2147483647})"}, GetParam()));
  constexpr std::size_t kTokens = 1100;  // more than there is room for at first, twice
  const Ids wanted = generate(model, Ids{1, 2}, {.max_tokens = kTokens}).tokens;
  std::size_t count = 0;
  const GenerateOptions all{.max_tokens = std::numeric_limits<std::int32_t>::max(),
                            .is_interrupted = [&] { return count == kTokens; }};
  EXPECT_EQ(generate(model, Ids{1, 2}, all, [&](std::int64_t) { ++count; }).tokens, wanted);
}

TEST_P(Generate, TheSameSeedGoesOnTheSameFromAnywhere) {
  const GenerateOptions options{.max_tokens = 20, .sampling = {.temperature = 5, .seed = 3}};
  const Ids whole = generate(model_, Ids{1, 2}, options).tokens;
  Ids prompt = {1, 2};
  prompt.insert(prompt.end(), whole.begin(), whole.begin() + 10);
  EXPECT_EQ(generate(model_, prompt, options).tokens[0], whole[10]);
  GenerateOptions other = options;
  other.sampling.seed = 4;
  EXPECT_NE(generate(model_, Ids{1, 2}, other).tokens, whole);
}

TEST_P(Generate, StopsAfterAnEndTokenWhichCounts) {
  const Ids whole = generate(model_, Ids{1}, {.max_tokens = 10}).tokens;
  const Generated found = generate(model_, Ids{1}, {.max_tokens = 10, .end = {-1, whole[0]}});
  EXPECT_EQ(found.tokens, Ids{whole[0]});
  EXPECT_EQ(found.stop, Generated::Stop::end_token);
}

TEST_P(Generate, StopsWhereThePositionsEnd) {
  const Generated found = generate(model_, Ids(120, 5), {.max_tokens = 100});
  EXPECT_EQ(found.tokens.size(), 8u);  // of 128
  EXPECT_EQ(found.stop, Generated::Stop::context);
}

TEST_P(Generate, KeepsWhatThereIsWhenItIsInterrupted) {
  int asked = 0;
  const Generated found =
      generate(model_, Ids{1}, {.max_tokens = 100, .is_interrupted = [&] { return ++asked > 4; }});
  EXPECT_EQ(found.tokens.size(), 4u);
  EXPECT_EQ(found.stop, Generated::Stop::interrupt);
}

TEST_P(Generate, RefusesAPromptOfNoTokenOfTooManyAndOfStrangeOnes) {
  EXPECT_TRUE(test::fails_with([&] { generate(model_, Ids{}, {}); }, {"no token"}));
  EXPECT_TRUE(test::fails_with([&] { generate(model_, Ids(128, 1), {}); }, {"128"}));
  EXPECT_TRUE(test::fails_with([&] { generate(model_, Ids{64}, {}); }, {"64"}));
}

TEST_P(Generate, FindsTheEndTokensAsTransformersDoes) {
  const auto found = [&] { return end_tokens(Folder(place_), model_.config); };
  EXPECT_EQ(found(), Ids{2});  // of config.json
  test::write_file(place_ / "generation_config.json", R"({"eos_token_id": [7, 9]})");
  EXPECT_EQ(found(), (Ids{7, 9}));
  test::write_file(place_ / "generation_config.json", R"({"eos_token_id": 11})");
  EXPECT_EQ(found(), Ids{11});
  test::write_file(place_ / "generation_config.json", "{}");
  EXPECT_EQ(found(), Ids{2});
}

INSTANTIATE_TEST_SUITE_P(DenseAndMoe, Generate, testing::Values(0, 4),
                         [](const auto& each) { return each.param == 0 ? "dense" : "experts"; });

}  // namespace
}  // namespace upmoe::model
