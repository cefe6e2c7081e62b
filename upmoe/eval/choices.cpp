#include "upmoe/eval/choices.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

// Shape letters: B rows of a batch, T positions, N scored tokens.
namespace upmoe::eval {
namespace {

using Ids = std::vector<std::int32_t>;

// A choice of a question, and how many tokens the model is to see for it: context and choice without its last
// token, which is only predicted, cut at the front.
struct Request {
  std::size_t question, choice;
  std::int64_t length;
};

// Requests that go through the model together. Those that show it the same tokens share a row: single-token
// choices do.
struct Batch {
  std::vector<Ids> rows;
  std::vector<const Request*> requests;
  std::vector<std::size_t> row_of;  // of each request
};

Ids input_of(const Question& question, const Request& request) {
  Ids ids = question.context;
  const Ids& choice = question.choices[request.choice];
  ids.insert(ids.end(), choice.begin(), choice.end() - 1);
  ids.erase(ids.begin(), ids.end() - request.length);
  return ids;
}

std::string place_of(const Question& question, const ChoiceOptions& options) {
  return fmt::format("{}: question {}", printable(options.name), printable(question.id));
}

void check(const Question& question, std::int64_t vocabulary, const ChoiceOptions& options) {
  const std::string place = place_of(question, options);
  require(!question.context.empty() && question.choices.size() >= 2, "{}: has no context or no choice",
          place);
  require(question.characters.size() == question.choices.size(), "{}: {} choices, and lengths of {}", place,
          question.choices.size(), question.characters.size());
  for (const std::int64_t characters : question.characters)
    require(characters >= 1, "{}: a choice of {} characters", place, characters);
  const auto check_ids = [&](const Ids& ids) {
    for (const std::int32_t token : ids)
      require(token >= 0 && token < vocabulary,
              "{}: token {} is not in the model's vocabulary of {}; is the tokenizer another model's?", place,
              token, vocabulary);
  };
  check_ids(question.context);
  for (const Ids& choice : question.choices) {
    require(!choice.empty(), "{}: a choice without a token", place);
    require(std::ssize(choice) <= options.context, "{}: a choice of {} tokens, and the model sees {} at most",
            place, choice.size(), options.context);
    check_ids(choice);
  }
  for (const std::int64_t right : question.answer)
    require(right >= 0 && right < std::ssize(question.choices), "{}: answer {} of {} choices", place, right,
            question.choices.size());
}

// The longest first: what does not fit into memory fails at once, and rows of a batch are of similar length.
std::vector<Request> make_requests(const std::vector<Question>& questions, std::int64_t context) {
  std::vector<Request> out;
  for (std::size_t q = 0; q < questions.size(); ++q)
    for (std::size_t c = 0; c < questions[q].choices.size(); ++c) {
      const auto& question = questions[q];
      out.push_back(
          {q, c, std::min(std::ssize(question.context) + std::ssize(question.choices[c]) - 1, context)});
    }
  std::ranges::stable_sort(out, std::ranges::greater{}, &Request::length);
  return out;
}

// Takes requests from the front of `left`.
Batch take_batch(const std::vector<Question>& questions, std::span<const Request>& left,
                 std::int64_t tokens) {
  Batch out;
  const auto most = static_cast<std::size_t>(std::max(std::int64_t{1}, tokens / left.front().length));
  for (; !left.empty(); left = left.subspan(1)) {
    Ids ids = input_of(questions[left.front().question], left.front());
    if (out.rows.empty() || out.rows.back() != ids) {
      if (out.rows.size() == most) break;
      out.rows.push_back(std::move(ids));
    }
    out.requests.push_back(&left.front());
    out.row_of.push_back(out.rows.size() - 1);
  }
  return out;
}

// [B, T], padded at the end with token 0, which nothing before it sees.
at::Tensor tokens_of(const Batch& batch) {
  const std::int64_t T = std::ssize(batch.rows.front());  // the longest
  at::Tensor out = at::zeros({std::ssize(batch.rows), T}, at::kLong);
  auto* token = out.mutable_data_ptr<std::int64_t>();
  for (const Ids& row : batch.rows) token = std::ranges::copy(row, token).out + (T - std::ssize(row));
  return out;
}

at::Tensor to_tensor(std::vector<std::int64_t>& values, at::Device device) {
  return at::from_blob(values.data(), {std::ssize(values)}, at::kLong)
      .to(device, at::kLong, false, /*copy=*/true);
}

// Of each request of the batch.
std::vector<double> log_likelihoods(const model::Model& model, const std::vector<Question>& questions,
                                    const Batch& batch, const model::Watch& watch) {
  const at::Tensor token_BT = tokens_of(batch).to(model.device);
  std::vector<std::int64_t> place, target;  // of each scored token: where it is predicted, and what it is
  for (std::size_t r = 0; r < batch.requests.size(); ++r) {
    const Request& request = *batch.requests[r];
    const Ids& choice = questions[request.question].choices[request.choice];
    const std::int64_t end = static_cast<std::int64_t>(batch.row_of[r]) * token_BT.size(1) + request.length;
    for (std::int64_t i = 0; i < std::ssize(choice); ++i) place.push_back(end - std::ssize(choice) + i);
    target.insert(target.end(), choice.begin(), choice.end());
  }
  const at::Tensor hidden_NH = model::hidden_states(model, {token_BT, {}, {}}, nullptr, watch)
                                   .flatten(0, 1)
                                   .index_select(0, to_tensor(place, model.device));
  const at::Tensor nll_N =
      ops::token_nll(hidden_NH, model.head_VH, to_tensor(target, model.device)).to(at::kDouble).cpu();
  const double* nll = nll_N.const_data_ptr<double>();
  std::vector<double> out;
  for (const Request* request : batch.requests) {
    out.push_back(0);
    for (std::size_t i = 0; i < questions[request->question].choices[request->choice].size(); ++i)
      out.back() -= *nll++;
  }
  return out;
}

std::size_t largest(const std::vector<double>& values) {
  return static_cast<std::size_t>(std::ranges::max_element(values) - values.begin());
}

}  // namespace

Answered answer(const Question& question, std::vector<double> log_likelihood) {
  Answered out;
  std::vector<double> norm = log_likelihood;
  for (std::size_t c = 0; c < norm.size(); ++c) norm[c] /= static_cast<double>(question.characters[c]);
  out.chosen = largest(log_likelihood);
  out.chosen_norm = largest(norm);
  const auto is_right = [&](std::size_t choice) {
    return std::ranges::find(question.answer, static_cast<std::int64_t>(choice)) != question.answer.end();
  };
  out.right = is_right(out.chosen);
  out.right_norm = is_right(out.chosen_norm);
  out.log_likelihood = std::move(log_likelihood);
  return out;
}

Accuracy accuracy(const std::vector<Answered>& questions, bool Answered::*right) {
  const auto n = static_cast<double>(questions.size());
  const double p = static_cast<double>(std::ranges::count(questions, true, right)) / n;
  if (questions.size() < 2) return {p, std::nullopt};
  return {p, std::sqrt(p * (1 - p) / (n - 1))};
}

Choices measure_choices(const model::Model& model, const std::vector<Question>& questions,
                        const ChoiceOptions& options, const model::Watch& watch,
                        const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  using Clock = std::chrono::steady_clock;
  const at::NoGradGuard no_gradients;
  require_asked(options.context >= 1, "a context of {} tokens shows the model nothing", options.context);
  require(!questions.empty(), "{}: there are no questions", printable(options.name));
  for (const Question& question : questions) check(question, model.config.llama.vocab_size, options);
  const std::vector<Request> requests = make_requests(questions, options.context);
  std::vector<std::vector<double>> found;
  for (const Question& question : questions) found.emplace_back(question.choices.size());

  std::int64_t done = 0, total = 0;
  for (const Request& request : requests) total += request.length;

  const std::int64_t at_once = model::tokens_at_once(model.config, options.batch_tokens);
  Choices out;
  const Clock::time_point start = Clock::now();
  for (std::span<const Request> left = requests; !left.empty();) {
    const Batch batch = take_batch(questions, left, at_once);
    const std::vector<double> scored = log_likelihoods(model, questions, batch, watch);
    for (std::size_t r = 0; r < scored.size(); ++r) {
      const Request& request = *batch.requests[r];
      found[request.question][request.choice] = scored[r];
      done += request.length;
    }
    for (const Ids& row : batch.rows) out.tokens_seen += std::ssize(row);
    if (progress) progress(done, total);
  }
  out.seconds = std::chrono::duration<double>(Clock::now() - start).count();

  for (std::size_t q = 0; q < questions.size(); ++q) {
    const Question& question = questions[q];
    for (const double sum : found[q])
      require(std::isfinite(sum), "{}{}: a log-likelihood is not finite; are the weights whole?", model.where,
              place_of(question, options));
    out.questions.push_back(answer(question, std::move(found[q])));
    for (const Ids& choice : question.choices)
      if (std::ssize(question.context) + std::ssize(choice) - 1 > options.context)
        out.questions.back().truncated = true;
  }
  out.acc = accuracy(out.questions, &Answered::right);
  out.acc_norm = accuracy(out.questions, &Answered::right_norm);
  out.truncated = std::ranges::count(out.questions, true, &Answered::truncated);
  return out;
}

}  // namespace upmoe::eval
