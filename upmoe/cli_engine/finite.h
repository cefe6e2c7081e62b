#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace upmoe::cli {

// Before a result is shown: throws Error that names the model and the first number that is not finite, for
// example texts[0].nll_stderr.
void require_finite(const nlohmann::ordered_json& result, const std::string& model);

}  // namespace upmoe::cli
