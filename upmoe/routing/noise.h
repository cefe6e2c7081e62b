#pragma once
#include <string_view>

#include "upmoe/routing/router.h"

// Random numbers of tokens: each depends on the key of the call, the name of what is drawn, the token's
// sequence and position, and the column. So the split of a batch, recomputation and the number of threads
// don't matter, and nothing is stored. Shape letters: T tokens, C columns.
namespace upmoe::routing {

enum class Draw {
  uniform,  // within (0, 1)
  normal,   // standard, within +-6.34
  gumbel    // -log(-log(u))
};

// float32 [T, C] on the device of the call.
at::Tensor draw(const Call& call, std::string_view name, Draw what, std::int64_t columns);

}  // namespace upmoe::routing
