#include "upmoe/convert/allowances.h"

#include <algorithm>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {

const std::vector<Allowance>& allowances() {
  static const std::vector<Allowance> all = {
      {"router-init", "a router initialisation that has a danger, such as zero"},
      {"not-finite", "NaN or Inf among the weights of the source"},
  };
  return all;
}

std::vector<std::string> allowance_names() {
  std::vector<std::string> out;
  for (const Allowance& allowance : allowances()) out.push_back(allowance.name);
  return out;
}

bool allows(const ConvertRequest& request, std::string_view name) {
  require(std::ranges::find(allowances(), name, &Allowance::name) != allowances().end(),
          "--allow knows no '{}'", name);
  return std::ranges::find(request.allow, name) != request.allow.end();
}

void check_allowed(const ConvertRequest& request) {
  const std::vector<std::string> known = allowance_names();
  for (const std::string& name : request.allow)
    if (std::ranges::find(known, name) == known.end())
      throw UsageError(fmt::format("there is no '{}' to be allowed; there are: {}{}", printable(name),
                                   join(known), guess(name, known)));
}

}  // namespace upmoe
