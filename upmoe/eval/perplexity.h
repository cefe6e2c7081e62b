#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "upmoe/data/token_file.h"
#include "upmoe/model/llama.h"

// Shape letters: B windows, T tokens of one.
namespace upmoe::eval {

struct WindowOptions {
  std::int64_t context = 2048;  // tokens of a window
  std::int64_t stride = 0;  // from one window to the next, at most context; 0: context, so that none overlap
  std::int64_t max_tokens = 0;  // of the file that are looked at; 0: all
};

// Tokens begin to begin + length - 1 of a file. Each is predicted from those before it in the window; scored
// are those that no earlier window has scored, and never the first of a window.
struct Window {
  std::int64_t begin, length, first_scored;
};

// In the order of the file; the last may be shorter. Throws UsageError for a stride that skips tokens.
std::vector<Window> make_windows(std::int64_t file_tokens, const WindowOptions& options);

// Windows of one length, one below the other.
struct WindowBatch {
  std::size_t first;     // number of the first window
  at::Tensor token_BT;   // int64
  at::Tensor target_BT;  // int64: the next token; -1 where it is not scored
};

// Calls `work` for all windows in order, so many at a time that a batch has about `tokens` tokens.
void for_each_batch(const TokenFile& file, const std::vector<Window>& windows, std::int64_t tokens,
                    at::Device device, const std::function<void(const WindowBatch&)>& work);

// Negative log-likelihoods added up window by window; float64.
class NllSum {
 public:
  void add(const at::Tensor& nll_BT, const at::Tensor& target_BT);  // float32; one row a window
  void add(const NllSum& other);

  std::int64_t tokens() const { return tokens_; }  // scored
  double nll() const;                              // mean, in nats
  double perplexity() const;
  // Of the mean nll, from the spread over windows, since the tokens of one are not independent:
  // sqrt(W/(W-1) sum_w (s_w - nll n_w)^2) / N. None with fewer than two windows.
  std::optional<double> standard_error() const;

 private:
  std::vector<double> sum_;        // s_w
  std::vector<double> of_tokens_;  // n_w
  std::int64_t tokens_ = 0;
};

struct Perplexity {
  NllSum nll;
  std::int64_t tokens_seen = 0;  // that went through the model
  double seconds = 0;
  bool partial = false;  // see below
};

// About this many tokens go through the model at once: enough for each expert's products to be large, and a
// bounded memory beside the weights.
inline constexpr std::int64_t kBatchTokens = 4096;

// `progress` is called with tokens done and tokens in all. Both it and `watch` may throw to stop; after an
// Interrupted there is, once a batch is whole, a partial result of the whole batches.
Perplexity measure_perplexity(
    const model::Model& model, const TokenFile& file, const WindowOptions& options,
    const model::Watch& watch = {},
    const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

}  // namespace upmoe::eval
