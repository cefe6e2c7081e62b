#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "upmoe/model/llama.h"

// Shape letters: L layers, E experts, N tokens of a batch, K experts of a token.
namespace upmoe::eval {

// Which pairs of experts a token had together is only counted for so many experts of a layer: a table has E^2
// numbers.
inline constexpr std::int64_t kMostPaired = 256;

// What the routers of a model do with some text. Entropies are divided by that of E equal shares, so 1 means
// even.
class ExpertUse {
 public:
  // pairs: count them, of at most kMostPaired experts.
  explicit ExpertUse(const model::ModelConfig& config, bool pairs);

  // To be called with everything that a Watch sees.
  void add(const model::FfnSeen& seen);

  struct Layer {
    std::vector<std::int64_t> load_E;                    // routed pairs of each expert
    std::vector<std::vector<std::int64_t>> together_EE;  // tokens that had both; the diagonal is the load.
                                                         // Empty: not counted.
    // Of the softmax of the router's logits; nothing: the router has none.
    std::optional<double> router_entropy;  // mean over tokens of the entropy
    std::optional<double> mean_entropy;    // entropy of the mean over tokens
    std::optional<double> logit_std;       // of a token's logits around their mean
    double load_entropy = 0;
    double top_weight = 0;     // mean of a token's largest weight
    double max_violation = 0;  // largest load / mean load - 1
    std::int64_t unused = 0;   // experts with less than a hundredth of the mean load
  };
  std::vector<Layer> layers() const;
  std::int64_t tokens() const { return tokens_; }  // of one layer

 private:
  struct Sums {
    std::vector<std::int64_t> load_E, together_EE;
    std::vector<double> score_E;
    double entropy = 0, top_weight = 0, logit_variance = 0;
    bool have_logits = false;
  };
  void add_pairs(const routing::Routing& routing, Sums& sums) const;

  std::int64_t experts_ = 0, tokens_ = 0;
  std::vector<Sums> sums_;
};

// How different the experts are that two or more texts go to: of each layer the mutual information between
// expert and text, divided by the entropy of the texts if all had equally many tokens. 0: the text says
// nothing about the expert.
std::vector<double> specialisation(const std::vector<std::vector<ExpertUse::Layer>>& of_texts);

}  // namespace upmoe::eval
