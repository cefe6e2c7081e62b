#include "upmoe/cli_engine/finite.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe::cli {
namespace {

void check(const nlohmann::ordered_json& value, const std::string& model, const std::string& name) {
  if (value.is_number_float())
    require(std::isfinite(value.get<double>()), "{}: {} is not finite; are the weights whole?", model, name);
  if (!value.is_structured()) return;
  for (const auto& [key, inner] : value.items())
    check(inner, model,
          value.is_array() ? fmt::format("{}[{}]", name, key) : name + (name.empty() ? "" : ".") + key);
}

}  // namespace

void require_finite(const nlohmann::ordered_json& result, const std::string& model) {
  check(result, printable(model), "");
}

}  // namespace upmoe::cli
