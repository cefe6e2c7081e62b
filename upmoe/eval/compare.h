#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "upmoe/eval/expert_use.h"
#include "upmoe/eval/perplexity.h"

// Shape letters: N tokens, H hidden size, V vocabulary, E experts.
namespace upmoe::eval {

// difference / size; nothing where there is a difference and nothing to compare it with.
inline std::optional<double> relative(double difference, double size) {
  if (difference == 0) return 0;
  return size == 0 ? std::nullopt : std::optional(difference / size);
}

// How far the function of a Mixture of Experts is from that of the dense model it was made of, on some text.
// Errors are relative: |a - b| / |b| over all tokens, b the dense model's. Those to a b of zeros are not
// known.
struct Comparison {
  std::int64_t tokens = 0;                          // whose logits were compared
  double most_difference = 0, mean_difference = 0;  // of a logit, absolute
  double most_logit = 0;                            // the largest of the dense model, absolute
  double kl_mean = 0, kl_most = 0;                  // KL(dense || moe) of a token's prediction, in nats
  double agreement = 0;                             // share of tokens for which both predict the same
  NllSum dense, moe;

  struct Layer {
    std::optional<double>
        ffn_error;                // of what the FFN gives, when both are fed what the dense model's FFN sees
    std::optional<double> drift;  // of what the FFN sees, in the two models as they run
    double expert_cosine = 1;     // mean over pairs of experts: between what they give for the same token
  };
  std::vector<Layer> layers;
  std::vector<ExpertUse::Layer> experts;

  // What "function-preserving" promises for float32.
  std::optional<double> relative_difference() const { return relative(most_difference, most_logit); }
};
inline constexpr double kExact = 1e-5;  // of relative_difference(): sums of some thousand terms, reordered

// Windows do not overlap. Holds what every FFN sees of one batch, and 2^24 logits of each model at once.
Comparison compare(const model::Model& dense, const model::Model& moe, const TokenFile& file,
                   const WindowOptions& options,
                   const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

}  // namespace upmoe::eval
