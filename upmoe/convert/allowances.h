#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/convert/plan.h"

namespace upmoe {

// What upmoe advises against, and does when it is allowed to by name: --allow NAME.
struct Allowance {
  std::string name, what;
};
const std::vector<Allowance>& allowances();
std::vector<std::string> allowance_names();

// Whether the request allows it. A name that is in no line of the table is an Error: of ours.
bool allows(const ConvertRequest& request, std::string_view name);

// Each allowed name is in the table, or a UsageError says what is.
void check_allowed(const ConvertRequest& request);

}  // namespace upmoe
