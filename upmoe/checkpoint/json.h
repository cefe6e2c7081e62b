#pragma once
#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace upmoe {

// Parses a stranger's JSON, which must be an object. Duplicate keys, nesting deeper than 64, more than two
// million values and zero bytes are errors; `where` is the file's name, for messages. Takes time n log n.
nlohmann::json parse_json_object(std::string_view text, std::string_view where);

// The number under `key` of what was parsed so, whole and from 0 to `most`: get() would make one of 2.5,
// 1e300 and -1 too. A key that is missing is the parser's own exception.
std::uint64_t whole_number(const nlohmann::json& object, const char* key, std::string_view where,
                           std::uint64_t most = std::numeric_limits<std::int64_t>::max());

// The number under `key` of a model's config.json, whole; `missing` where there is no such key.
std::int64_t config_number(const nlohmann::json& config, const char* key, std::int64_t missing);

// The same of a flag, where null is as if there were no key.
bool config_flag(const nlohmann::json& config, const char* key, bool missing);

}  // namespace upmoe
