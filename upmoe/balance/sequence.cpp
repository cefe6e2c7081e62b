// The load-balancing loss of each sequence, a small one beside biases that balance the batch: DeepSeek-V3.
// arXiv:2412.19437, equations 17 to 20; probabilities are the scores divided by their sum.
#include "upmoe/balance/load_times_probability.h"
#include "upmoe/balance/registry.h"

namespace upmoe::balance {

LossInfo sequence() {
  LossInfo out = load_times_probability(
      "sequence", "switch over each sequence: no sequence may collapse, whatever the others do",
      "mean over sequences of E * sum_i f_i P_i, f_i = n_i / (k T), T: the tokens of the sequence",
      "arXiv:2412.19437, equations 17 to 20", /*by_k=*/true);
  out.scope = Scope::sequence;
  out.coefficient = 1e-4;
  return out;
}

}  // namespace upmoe::balance
