#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "upmoe/convert/convert.h"

namespace upmoe::cli {

// What `upmoe convert` says, as lines for people and as JSON for programs.
std::string plan_text(const Plan& plan, const std::string& output);
nlohmann::ordered_json plan_json(const Plan& plan, const std::string& output);

struct Forecast {
  double seconds = 0, bytes_per_second = 0;
  bool measured = false;
};
std::string forecast_text(const Forecast& forecast);
nlohmann::ordered_json forecast_json(const Forecast& forecast);

std::string outcome_text(const Converted& converted, const RunOptions& options, double seconds);
nlohmann::ordered_json outcome_json(const Converted& converted, double seconds);

// The command that checks the output.
std::string next_command(const Plan& plan, const std::string& output);

}  // namespace upmoe::cli
