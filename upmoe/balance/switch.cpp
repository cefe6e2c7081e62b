// The load-balancing loss of Switch and GShard, of each layer on its own: what to train with unless there is
// a reason for another.  Fedus, Zoph, Shazeer, arXiv:2101.03961, equations 4 to 6, with f divided by k as
// Megatron has it.
#include "upmoe/balance/load_times_probability.h"
#include "upmoe/balance/registry.h"

namespace upmoe::balance {

LossInfo switch_() {
  return load_times_probability("switch", "share of choices times mean probability, of each layer",
                                "E * sum_i f_i P_i, f_i = n_i / (k T), P_i = mean_t p_ti", "arXiv:2101.03961",
                                /*by_k=*/true);
}

}  // namespace upmoe::balance
