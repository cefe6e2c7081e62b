// A recipe: only known options come out of it, and what came out can be written down and read again.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "upmoe/cli/recipe.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  static const std::vector<std::string> kKnown = {"method", "ratio",     "experts",        "top-k",
                                                  "seed",   "keep-tied", "max-shard-size", "router-logit-std",
                                                  "source", "output"};
  only_errors([&] {
    const Values values = cli::parse_recipe(text_of(data, size), "recipe.toml", kKnown);
    Values plain;
    std::string again;
    for (const auto& [key, value] : values) {
      check(std::ranges::find(kKnown, key) != kKnown.end(), "an option that does not exist");
      if (!is_printable(value)) continue;
      plain[key] = value;
      again += key + " = " + nlohmann::json(value).dump() + "\n";  // as upmoe-recipe.toml has it
    }
    check(cli::parse_recipe(again, "again", kKnown) == plain, "another value after writing");
  });
  return 0;
}
