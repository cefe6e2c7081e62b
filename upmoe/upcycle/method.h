#pragma once
#include <functional>
#include <optional>
#include <string>

#include "upmoe/base/plugin.h"
#include "upmoe/checkpoint/dense_config.h"
#include "upmoe/checkpoint/dense_weights.h"
#include "upmoe/checkpoint/moe_shape.h"
#include "upmoe/upcycle/draft.h"
#include "upmoe/upcycle/neuron_moments.h"

namespace upmoe {

// One FFN of the dense model, as a method sees it.
struct DenseLayer {
  std::int64_t index;
  const DenseConfig& config;
  // Of one of its matrices; computed on the first call and kept while the layer lasts. From any thread.
  std::function<const NeuronMoments&(Matrix)> moments;
};

// The same layer, converted. `draft` may be called in any order, from any thread and more than once; it reads
// the DenseLayer and the Method, which have to outlive it.
struct MoeLayer {
  std::function<Draft(std::int64_t e, Matrix matrix)> draft;
};

// The keys of a conversion, by its seed: what everything of a layer, or of a weight outside the layers, is
// drawn from.
inline Rng layer_key(std::uint64_t seed, std::int64_t layer) {
  return Rng(seed).at("layer").at(static_cast<std::uint64_t>(layer));
}
inline Rng weight_key(std::uint64_t seed, const DenseWeight& weight) {
  return Rng(seed).at("weight").at(weight.name);
}

// An upcycling method: says what experts are made of. It knows neither files nor names. The same layer and
// key always give the same drafts.
class Method {
 public:
  // What convert() and its drafts need of a layer's dense matrices.
  struct Reads {
    bool weights = true;   // a draft other than Draw and Constant
    bool moments = false;  // layer.moments
    // Only of the draft's own matrix: its moments, and those of its weights that stay in their place (no
    // Pick). Then less of the model is in memory at a time, and it is read once.
    bool own_place = false;
  };

  virtual ~Method() = default;

  // Why the converted model does not compute at first what the dense one does, given that the experts'
  // weights sum to one for every token; empty when it does.
  virtual std::string changes_function() const = 0;

  virtual Reads reads() const { return {}; }

  // What is made when `asked` is asked for: as many experts, K for a token as there; the size of an expert is
  // the method's own. Throws UsageError when it can't be made.
  virtual MoeShape shape(const MoeShape& asked, const DenseConfig& config) const {
    MoeShape made = asked;
    made.expert_size = config.intermediate_size;
    return made;
  }

  // Layer `layer.index`; `key` is the layer's own.
  virtual MoeLayer convert(const DenseLayer& layer, const MoeShape& shape, const Rng& key) const = 0;

  // What becomes of a weight outside the FFNs; `key` is that weight's own.
  virtual Draft weight(const DenseWeight& /*weight*/, const DenseConfig& /*config*/,
                       const Rng& /*key*/) const {
    return Copy{};
  }
};

using MethodInfo = Plugin<Method>;

template <class M>
MethodInfo method_info(std::string name, std::string summary, std::string formula, std::string source) {
  return plugin<M, Method>(std::move(name), std::move(summary), std::move(formula), std::move(source));
}

}  // namespace upmoe
