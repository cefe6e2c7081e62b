#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace upmoe {

// Parses a stranger's JSON, which must be an object. Duplicate keys, nesting deeper than 64, more than two
// million values and zero bytes are errors; `where` is the file's name, for messages. Takes time n log n.
nlohmann::json parse_json_object(std::string_view text, std::string_view where);

}  // namespace upmoe
