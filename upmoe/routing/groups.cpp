// Shape letters: T tokens, E experts, G groups, C experts of a group.
#include "upmoe/routing/groups.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/topk.h>

#include <algorithm>
#include <limits>

#include "upmoe/base/error.h"
#include "upmoe/routing/select.h"

namespace upmoe::routing {

Groups resolve(Groups groups, const RouterShape& shape, std::string_view router) {
  const std::int64_t E = shape.experts, K = shape.per_token;
  require_asked(
      groups.number >= 0 && (groups.number <= 1 || (2 * groups.number <= E && E % groups.number == 0)),
      "{}: groups is {}, expected equal groups of two or more of the {} experts", router, groups.number, E);
  groups.number = std::max<std::int64_t>(groups.number, 1);
  const std::int64_t size = E / groups.number, least = (K + size - 1) / size;
  if (groups.kept == 0) groups.kept = std::max((groups.number + 1) / 2, least);
  require_asked(least <= groups.kept && groups.kept <= groups.number,
                "{}: kept-groups is {}, expected {} to {}, since {} of {} experts are in groups of {}",
                router, groups.kept, least, groups.number, K, E, size);
  return groups;
}

std::int64_t most_groups(const RouterShape& shape) {
  for (std::int64_t groups = std::min<std::int64_t>(8, shape.experts / 2); groups > 1; --groups)
    if (shape.experts % groups == 0 && (groups + 1) / 2 * (shape.experts / groups) >= shape.per_token)
      return groups;
  return 1;
}

at::Tensor limit_groups(const at::Tensor& score_TE, const Groups& groups) {
  if (groups.kept == groups.number) return score_TE;
  const std::int64_t T = score_TE.size(0), G = groups.number, C = score_TE.size(1) / G;
  const at::Tensor score_TGC = score_TE.detach().reshape({T, G, C}),
                   best_TG = std::get<0>(score_TGC.topk(groups.best, /*dim=*/-1)).sum(-1),
                   kept_TG = mask_of(select_topk(best_TG, groups.kept), G);
  const at::Tensor out_TG1 = kept_TG.logical_not().unsqueeze(-1);
  return score_TE.masked_fill(out_TG1.expand({T, G, C}).reshape({T, G * C}),
                              -std::numeric_limits<double>::infinity());
}

}  // namespace upmoe::routing
