// A recipe: only known options come out of it, what came out can be written down and read again, and it may
// be nested as deeply as it likes.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "upmoe/cli/recipe.h"

namespace upmoe::fuzz {
namespace {

// What is nested deeply is longer than an input: a byte that TOML has no use for stands for 450 levels.
std::string deepened(std::string_view text) {
  std::string out;
  int left = 8;
  for (const char c : text) {
    const std::string_view level = c == '\x01' ? "a." : c == '\x02' ? "[" : c == '\x03' ? "{a=" : "";
    if (level.empty() || left-- <= 0) {
      out += c;
      continue;
    }
    for (int i = 0; i < 450; ++i) out += level;
  }
  return out;
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  static const std::vector<std::string> kKnown = {"method", "ratio",     "experts",        "top-k",
                                                  "seed",   "keep-tied", "max-shard-size", "router-logit-std",
                                                  "source", "output"};
  only_errors([&] {
    const Values values = cli::parse_recipe(deepened(text_of(data, size)), "recipe.toml", kKnown);
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
