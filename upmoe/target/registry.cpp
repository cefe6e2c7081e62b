#include "upmoe/target/registry.h"

#include <fmt/args.h>
#include <fmt/format.h>

namespace upmoe {

std::string weight_name(const std::string& pattern, std::int64_t l, std::int64_t e) {
  return fmt::format(fmt::runtime(pattern), fmt::arg("l", l), fmt::arg("e", e));
}

namespace target {

const std::vector<Target>& targets() {
#define UPMOE_CALL(name) name(),
  static const std::vector<Target> all = {UPMOE_TARGETS(UPMOE_CALL)};
#undef UPMOE_CALL
  return all;
}

}  // namespace target
}  // namespace upmoe
