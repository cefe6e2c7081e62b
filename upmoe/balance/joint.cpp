// What transformers' load_balancing_loss_func computes and Drop-Upcycling was trained with (coefficient
// 0.02): shares and probabilities are averaged over all layers before they are multiplied. Layers that have
// each collapsed onto other experts look balanced to it; it is here to repeat what was done, not to be
// chosen.
#include "upmoe/balance/load_times_probability.h"
#include "upmoe/balance/registry.h"

namespace upmoe::balance {

LossInfo joint() {
  LossInfo out = load_times_probability(
      "joint", "share of choices times mean probability, both over all layers together",
      "E * sum_i f_i P_i, f_i = n_i / T and P_i = mean_t p_ti, T: the tokens of all layers",
      "transformers, modeling_mixtral.py; arXiv:2502.19261", /*by_k=*/false);
  out.joint = true;
  out.coefficient = 0.02;
  return out;
}

}  // namespace upmoe::balance
