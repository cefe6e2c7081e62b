#include "upmoe/checkpoint/match_weights.h"

#include <set>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {

std::string some(const std::vector<std::string>& names) {
  std::vector<std::string> shown;
  for (const std::string& name : names)
    if (shown.size() < 3) shown.push_back(printable(name));
  return join(shown) + (names.size() > 3 ? fmt::format(" and {} more", names.size() - 3) : "");
}

std::vector<Weights::Entry> match_weights(
    const Weights& files, const std::vector<ExpectedWeight>& expected, const std::string& where,
    const std::function<bool(const std::string& name)>& may_be_left,
    const std::function<void(const std::vector<std::string>& strangers)>& refuse) {
  std::set<std::string, std::less<>> known;
  std::vector<std::string> names, missing, strangers;
  std::vector<Weights::Entry> out;
  for (const ExpectedWeight& weight : expected) {
    known.insert(weight.name);
    names.push_back(weight.name);
    const auto found = files.entries().find(weight.name);
    if (found == files.entries().end())
      missing.push_back(weight.name);
    else
      out.push_back(found->second);
  }
  for (const auto& [name, entry] : files.entries())
    if (!known.contains(name) && !may_be_left(name)) strangers.push_back(name);
  if (!strangers.empty()) {
    refuse(strangers);
    fail("{}: {} weights that such a model does not have: {}{}", where, strangers.size(), some(strangers),
         guess(strangers.front(), names));
  }
  require(missing.empty(), "{}: {} of {} weights are missing: {}; is the download complete?", where,
          missing.size(), expected.size(), some(missing));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const TensorInfo& info = *out[i].info;
    require(info.shape == expected[i].shape, "{}: '{}' has shape {}, config.json says {}", where, info.name,
            shape_text(info.shape), shape_text(expected[i].shape));
    require(is_float_weight(info.dtype), "{}: '{}' is {}, and only F32, BF16 and F16 are supported; {}",
            where, info.name, name(info.dtype),
            "dequantise the model first, for example load with transformers and save_pretrained in bfloat16");
  }
  return out;
}

}  // namespace upmoe
