#pragma once
#include <functional>

namespace upmoe::ops {

// Calls make(), which lets oneDNN generate a kernel, or throws std::bad_alloc: oneDNN (of torch 2.13.0)
// crashes when it can't map memory for one. So room is looked for just before, and one thread does this at a
// time.
void with_room_for_a_kernel(const std::function<void()>& make);

}  // namespace upmoe::ops
