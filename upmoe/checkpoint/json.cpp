#include "upmoe/checkpoint/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {

nlohmann::json parse_json_object(std::string_view text, std::string_view where) {
  using Json = nlohmann::json;
  constexpr int kMaxDepth = 64;
  const std::string shown = printable(where);
  require(text.find('\0') == std::string_view::npos, "{}: has a zero byte", shown);
  std::vector<std::set<std::string, std::less<>>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    require(depth < kMaxDepth, "{}: nested deeper than {}", shown, kMaxDepth);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys.back().insert(key).second, "{}: key '{}' stands twice", shown, printable(key));
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), check);
    require(json.is_object(), "{}: is of type {}, expected an object", shown, json.type_name());
    return json;
  } catch (const Json::exception& error) {
    const std::string_view what = error.what();
    const std::size_t colon = what.find("] ");
    fail("{}: not valid JSON: {}", shown,
         printable(what.substr(colon == std::string_view::npos ? 0 : colon + 2)));
  }
}

}  // namespace upmoe
