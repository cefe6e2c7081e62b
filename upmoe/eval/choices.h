#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "upmoe/model/llama.h"

// Multiple-choice questions, scored as lm-evaluation-harness does (output_type multiple_choice).
namespace upmoe::eval {

// Token ids, as `python -m upmoe choices` makes them.
struct Question {
  std::string id;
  std::vector<std::int32_t> context;               // at least one token
  std::vector<std::vector<std::int32_t>> choices;  // at least two, of at least one token
  std::vector<std::int64_t>
      characters;                    // at least one, of each choice's text without the delimiter before it
  std::vector<std::int64_t> answer;  // numbers of the right choices
};

struct Answered {
  std::vector<double> log_likelihood;  // of each choice, in nats: the sum over its tokens
  std::size_t chosen = 0;              // the choice with the largest log-likelihood; of equals the first
  std::size_t chosen_norm = 0;         // the same of log-likelihood / characters
  bool right = false, right_norm = false;
  bool truncated = false;  // the beginning of its context did not fit for some choice
};

struct Accuracy {
  double mean = 0;
  std::optional<double> standard_error;  // sqrt(p (1 - p) / (n - 1)); none for a single question
};

struct Choices {
  std::vector<Answered> questions;  // in the order asked
  Accuracy acc, acc_norm;
  std::int64_t truncated = 0;    // questions
  std::int64_t tokens_seen = 0;  // that went through the model, without padding
  double seconds = 0;
};

// What choosing means, from log-likelihoods and the question alone.
Answered answer(const Question& question, std::vector<double> log_likelihood);
Accuracy accuracy(const std::vector<Answered>& questions, bool Answered::*right);

struct ChoiceOptions {
  std::string name;             // what the questions are called in an error
  std::int64_t context = 2048;  // tokens that the model may see at once; what is longer loses its beginning
  std::int64_t batch_tokens = 4096;  // about so many go through the model at once
};

// `progress` is called with tokens done and tokens in all; it and `watch` may throw to stop. Throws Error for
// questions that break what Question says, for ids outside the vocabulary, and for a choice longer than the
// context.
Choices measure_choices(const model::Model& model, const std::vector<Question>& questions,
                        const ChoiceOptions& options, const model::Watch& watch = {},
                        const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

}  // namespace upmoe::eval
