#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace upmoe::cli {

// Before a result is shown: throws Error that names the first number in it that is not finite, for example
// texts[0].nll_stderr.
void require_finite(const nlohmann::ordered_json& result);

}  // namespace upmoe::cli
