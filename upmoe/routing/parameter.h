#pragma once
#include "upmoe/routing/router.h"

namespace upmoe::routing {

// A parameter of a router that starts at zero.
at::Tensor zero_parameter(const RouterShape& shape, at::IntArrayRef sizes);

// One that starts normal with this standard deviation, by its name and the key of the shape alone.
at::Tensor normal_parameter(const RouterShape& shape, std::string_view name, at::IntArrayRef sizes,
                            double std);

}  // namespace upmoe::routing
