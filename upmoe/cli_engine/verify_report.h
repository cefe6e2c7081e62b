#pragma once
#include <optional>
#include <string>

#include "upmoe/eval/compare.h"
#include "upmoe/inspect/receipt.h"

namespace upmoe::cli {

// What `upmoe verify` has found, before it is shown.
struct Verified {
  std::string moe, against;  // folders, as the user named them
  Receipt receipt;
  std::string data, compute;  // empty without --data
  eval::WindowOptions windows;
  std::optional<eval::Comparison> comparison;
};

// docs/verify.md says what each line means. Throw Error where a number is not finite.
std::string receipt_text(const Verified& found);
std::string receipt_json(const Verified& found);

}  // namespace upmoe::cli
