#include "upmoe/eval/choices.h"

#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/model/load.h"

namespace {

using namespace upmoe;
using namespace upmoe::eval;
using upmoe::eval::Choices;  // not those of options
using upmoe::test::fails_with;

struct TinyModel {
  test::TempFolder folder;
  model::Model model;

  TinyModel() {
    test::make_tiny_llama(folder.path(), {.dtype = Dtype::f32});
    model = model::load(folder.path());
  }
};

std::vector<Question> some_questions() {
  return {{"one", {3, 4, 5}, {{6}, {7}, {8, 9, 10}}, {1, 1, 2}, {0}},
          {"two", {11}, {{12, 13}, {14, 15, 16, 17}}, {2, 3}, {1}},
          {"three", {20, 21, 22, 23, 24, 25, 26}, {{27, 28}, {27, 29}}, {2, 2}, {0, 1}}};
}

// By a forward pass of its own and the whole table of logits.
double log_likelihood(const model::Model& model, std::vector<std::int64_t> context,
                      const std::vector<std::int32_t>& choice) {
  double out = 0;
  for (const std::int32_t token : choice) {
    const at::Tensor token_BT = at::from_blob(context.data(), {1, std::ssize(context)}, at::kLong);
    const at::Tensor logits = model::logits(model, model::hidden_states(model, {token_BT, {}, {}}));
    out += logits[0][-1].log_softmax(-1)[token].item<double>();
    context.push_back(token);
  }
  return out;
}

constexpr double kFloat32 = 1e-4;  // sums of some log-likelihoods around 4, in another order

TEST(Choices, AreTheSumsOverTheTokensForEveryBatch) {
  const TinyModel tiny;
  const std::vector<Question> questions = some_questions();
  for (const std::int64_t batch_tokens : {1, 7, 16, 4096}) {
    const Choices found =
        measure_choices(tiny.model, questions, {.name = "", .context = 64, .batch_tokens = batch_tokens});
    for (std::size_t q = 0; q < questions.size(); ++q)
      for (std::size_t c = 0; c < questions[q].choices.size(); ++c)
        EXPECT_NEAR(found.questions[q].log_likelihood[c],
                    log_likelihood(tiny.model, {questions[q].context.begin(), questions[q].context.end()},
                                   questions[q].choices[c]),
                    kFloat32);
    EXPECT_EQ(found.truncated, 0);
  }
}

TEST(Choices, ThatTheModelSeesTheSameTokensForShareThem) {
  const TinyModel tiny;
  const Choices found = measure_choices(tiny.model, some_questions(), {.name = "", .context = 64});
  EXPECT_EQ(found.tokens_seen, (3 + 5) + (2 + 4) + 8);
}

TEST(Choices, LoseTheBeginningOfAContextThatIsTooLong) {
  const TinyModel tiny;
  std::vector<Question> questions = some_questions();
  const Choices found = measure_choices(tiny.model, questions, {.name = "", .context = 5});
  EXPECT_EQ(found.truncated, 1);
  EXPECT_TRUE(found.questions[2].truncated);
  // The last of the five and one is only predicted.
  EXPECT_NEAR(found.questions[2].log_likelihood[1], log_likelihood(tiny.model, {23, 24, 25, 26}, {27, 29}),
              kFloat32);
}

TEST(Choices, AreChosenBySumAndBySumOverCharacters) {
  const Question question{"", {1}, {{2}, {3}, {4}}, {1, 4, 2}, {1, 2}};
  const Answered found = answer(question, {-2.0, -3.0, -2.0});
  EXPECT_EQ(found.chosen, 0U);  // of equals the first
  EXPECT_EQ(found.chosen_norm, 1U);
  EXPECT_FALSE(found.right);
  EXPECT_TRUE(found.right_norm);
}

TEST(Choices, HaveTheStandardErrorOfAMean) {
  std::vector<Answered> questions(5);
  questions[0].right = questions[3].right = true;
  const Accuracy found = accuracy(questions, &Answered::right);
  EXPECT_DOUBLE_EQ(found.mean, 0.4);
  // sqrt(sum (x - 0.4)^2 / 4) / sqrt(5): lm-evaluation-harness's mean_stderr
  EXPECT_DOUBLE_EQ(*found.standard_error, std::sqrt((2 * 0.36 + 3 * 0.16) / 4 / 5));
  EXPECT_EQ(accuracy({Answered{}}, &Answered::right).standard_error, std::nullopt);
}

TEST(Choices, RefuseWhatTheModelCannotSee) {
  const TinyModel tiny;
  const auto measure = [&](auto change) {
    std::vector<Question> questions = some_questions();
    change(questions[1]);
    measure_choices(tiny.model, questions, {.name = "some.jsonl", .context = 4});
  };
  EXPECT_TRUE(fails_with([&] { measure([](Question& q) { q.context[0] = 64; }); },
                         {"some.jsonl: question two: ", "64"}));
  EXPECT_TRUE(fails_with([&] { measure([](Question& q) { q.choices[1][3] = -1; }); }, {"two", "-1"}));
  EXPECT_TRUE(fails_with([&] { measure([](Question& q) { q.choices[1].resize(5); }); }, {"two", "5", "4"}));
  EXPECT_TRUE(fails_with([&] { measure([](Question& q) { q.context.clear(); }); }, {"two", "no context"}));
  EXPECT_TRUE(fails_with([&] { measure([](Question& q) { q.choices[0].clear(); }); }, {"two", "token"}));
  EXPECT_TRUE(fails_with([&] { measure([](Question& q) { q.answer = {2}; }); }, {"two", "answer 2"}));
  EXPECT_TRUE(fails_with([&] { measure_choices(tiny.model, {}, {}); }, {"no questions"}));
}

}  // namespace
