#include "upmoe/eval/perplexity.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "upmoe/base/counted.h"
#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe::eval {

std::vector<Window> make_windows(std::int64_t file_tokens, const WindowOptions& options) {
  const std::int64_t stride = options.stride == 0 ? options.context : options.stride;
  require_asked(options.context >= 2, "a context of {} tokens predicts nothing; it must be at least 2",
                options.context);
  require_asked(stride >= 1 && stride <= options.context,
                "a stride of {} does not go with a context of {}: it must be from 1 to that, or tokens would "
                "be skipped",
                stride, options.context);
  require_asked(options.max_tokens >= 0, "max-tokens is {}, expected a positive number, or 0 for all",
                options.max_tokens);
  const std::int64_t end = options.max_tokens == 0 ? file_tokens : std::min(file_tokens, options.max_tokens);
  std::vector<Window> out;
  for (std::int64_t begin = 0, scored = 0; end - begin >= 2; begin += stride) {
    const std::int64_t length = std::min(options.context, end - begin);
    out.push_back({begin, length, std::max(scored - begin, std::int64_t{1})});
    scored = begin + length;
    if (scored == end) break;
  }
  return out;
}

namespace {

// The windows first to first + count - 1, which have one length.
WindowBatch read_batch(const TokenFile& file, const std::vector<Window>& windows, std::size_t first,
                       std::size_t count) {
  const std::int64_t T = windows[first].length;
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(count), T};
  WindowBatch out{first, at::empty(shape, at::kLong), at::full(shape, -1, at::kLong)};
  std::vector<std::int32_t> ids(static_cast<std::size_t>(T));
  auto* token = out.token_BT.mutable_data_ptr<std::int64_t>();
  auto* target = out.target_BT.mutable_data_ptr<std::int64_t>();
  for (std::size_t w = 0; w < count; ++w, token += T, target += T) {
    const Window& window = windows[first + w];
    file.read(window.begin, ids);
    std::ranges::copy(ids, token);
    std::copy(ids.begin() + window.first_scored, ids.end(), target + window.first_scored - 1);
  }
  return out;
}

}  // namespace

void for_each_batch(const TokenFile& file, const std::vector<Window>& windows, std::int64_t tokens,
                    at::Device device, const std::function<void(const WindowBatch&)>& work) {
  for (std::size_t first = 0; first < windows.size();) {
    const std::int64_t T = windows[first].length;
    const auto most = static_cast<std::size_t>(std::max(std::int64_t{1}, tokens / T));
    std::size_t count = 1;
    while (count < most && first + count < windows.size() && windows[first + count].length == T) ++count;
    WindowBatch batch = read_batch(file, windows, first, count);
    batch.token_BT = batch.token_BT.to(device);
    batch.target_BT = batch.target_BT.to(device);
    work(batch);
    first += count;
  }
}

void NllSum::add(const at::Tensor& nll_BT, const at::Tensor& target_BT) {
  const at::Tensor sum_B = nll_BT.to(at::kDouble).sum(/*dim=*/1).cpu(),
                   scored_B = (target_BT >= 0).sum(/*dim=*/1).cpu();
  for (std::int64_t b = 0; b < sum_B.size(0); ++b) {
    sum_.push_back(sum_B[b].item<double>());
    of_tokens_.push_back(scored_B[b].item<double>());
    tokens_ += scored_B[b].item<std::int64_t>();
  }
}

void NllSum::add(const NllSum& other) {
  sum_.insert(sum_.end(), other.sum_.begin(), other.sum_.end());
  of_tokens_.insert(of_tokens_.end(), other.of_tokens_.begin(), other.of_tokens_.end());
  tokens_ += other.tokens_;
}

double NllSum::nll() const {
  double sum = 0;
  for (const double s : sum_) sum += s;
  return sum / static_cast<double>(tokens_);
}

double NllSum::perplexity() const { return std::exp(nll()); }

std::optional<double> NllSum::standard_error() const {
  const auto W = static_cast<double>(sum_.size());
  if (sum_.size() < 2) return std::nullopt;
  double squares = 0;
  for (std::size_t w = 0; w < sum_.size(); ++w) squares += std::pow(sum_[w] - nll() * of_tokens_[w], 2);
  return std::sqrt(W / (W - 1) * squares) / static_cast<double>(tokens_);
}

Perplexity measure_perplexity(const model::Model& model, const TokenFile& file, const WindowOptions& options,
                              const model::Watch& watch,
                              const std::function<void(std::int64_t done, std::int64_t total)>& progress) {
  using Clock = std::chrono::steady_clock;
  const at::NoGradGuard no_gradients;
  const std::vector<Window> windows = make_windows(file.size(), options);
  require(!windows.empty(), "{}: has {}, and at least 2 are needed", printable(file.name()),
          counted(file.size(), "token"));
  std::int64_t total = 0;
  for (const Window& window : windows) total += window.length;
  Perplexity out;
  const Clock::time_point start = Clock::now();
  const auto measure = [&](const WindowBatch& batch) {
    const at::Tensor hidden_BTH = model::hidden_states(model, {batch.token_BT, {}, {}}, nullptr, watch);
    const at::Tensor nll_N =
        ops::token_nll(hidden_BTH.flatten(0, 1), model.head_VH, batch.target_BT.flatten());
    out.nll.add(nll_N.view_as(batch.target_BT), batch.target_BT);
    out.tokens_seen += batch.token_BT.numel();
    if (progress) progress(out.tokens_seen, total);
  };
  try {
    for_each_batch(file, windows, model::tokens_at_once(model.config, kBatchTokens), model.device, measure);
  } catch (const Interrupted&) {
    if (out.tokens_seen == 0) throw;
    out.partial = true;
  }
  out.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return out;
}

}  // namespace upmoe::eval
