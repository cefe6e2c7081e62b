#pragma once
#include "upmoe/routing/router.h"

// Shape letters: T tokens, E experts.
namespace upmoe::routing {

// Neighbouring experts in groups of one size, of which a token uses some alone.
struct Groups {
  std::int64_t number = 0, kept = 0;
  std::int64_t best = 2;  // how many of a group's largest scores make up its own
};

// With what may be left at 0: no groups, and half of them kept, or as many as it takes to hold k experts.
Groups resolve(Groups groups, const RouterShape& shape, std::string_view router);

// The most groups, up to 8, of which each has at least two experts and half hold k experts.
std::int64_t most_groups(const RouterShape& shape);

// The scores, but -infinity outside of the groups that a token keeps, which are those of the largest sums of
// their best scores; of equal groups the lower.
at::Tensor limit_groups(const at::Tensor& score_TE, const Groups& groups);

}  // namespace upmoe::routing
