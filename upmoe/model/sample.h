#pragma once
#include <cstdint>
#include <span>
#include <vector>

// V vocabulary.
namespace upmoe::model {

struct Sampling {
  double temperature = 0;  // 0: the largest logit; of equal ones that of the lower id
  std::int64_t top_k = 0;  // among so many of the largest logits; 0: all
  double top_p = 1;        // among the fewest of the likeliest that have this probability together
  std::uint64_t seed = 0;
};

// Throws UsageError that says what is out of its range.
void check(const Sampling& sampling);

struct Candidate {
  std::int64_t token;
  double probability;
};

// What may be drawn: the temperature first, then top_k, then top_p, as transformers has it. The probabilities
// sum to one.
std::vector<Candidate> candidates(std::span<const float> logits_V, const Sampling& sampling);

// The token at this position. The draw depends on the seed and the position alone, so the same logits give
// the same token whatever else is computed with it.
std::int64_t sample(std::span<const float> logits_V, const Sampling& sampling, std::uint64_t position);

}  // namespace upmoe::model
