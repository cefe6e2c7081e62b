#pragma once
#include <functional>
#include <string>
#include <vector>

#include "upmoe/checkpoint/folder.h"

namespace upmoe {

struct ExpectedWeight {
  std::string name;
  std::vector<std::int64_t> shape;
};

// The entries of the expected weights, in their order. Throws when one is missing, has another shape, or is
// not F32, BF16 or F16, and when there is one that nobody expects: `refuse` may say it better first, from
// their names. `where`: the folder, for messages. A name for which `may_be_left` says yes may be there and is
// not looked at.
std::vector<Weights::Entry> match_weights(
    const Weights& files, const std::vector<ExpectedWeight>& expected, const std::string& where,
    const std::function<bool(const std::string& name)>& may_be_left,
    const std::function<void(const std::vector<std::string>& strangers)>& refuse);

// The first few of many names, safe to print.
std::string some(const std::vector<std::string>& names);

}  // namespace upmoe
