// The load-balancing loss over all tokens of an optimizer step: experts may specialise in what a micro-batch
// is about, as long as the whole batch is balanced.  Qiu et al., arXiv:2501.11873.
#include "upmoe/balance/load_times_probability.h"
#include "upmoe/balance/registry.h"

namespace upmoe::balance {

LossInfo global_batch() {
  LossInfo out = load_times_probability(
      "global_batch", "switch over the whole step: leaves experts free to specialise",
      "E * sum_i f_i P_i, f_i = n_i / (k T), P_i = mean_t p_ti, T: the tokens of the step",
      "arXiv:2501.11873",
      /*by_k=*/true);
  out.scope = Scope::step;
  return out;
}

}  // namespace upmoe::balance
