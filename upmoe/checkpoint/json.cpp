#include "upmoe/checkpoint/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostDepth = 64;
constexpr std::size_t kMostValues = 2'000'000;  // some 100 bytes of memory each

constexpr int kNumberOverflow = 406;  // nlohmann's

[[noreturn]] void fail_at(const std::string& where, const std::string& key,
                          const nlohmann::detail::exception& error) {
  require(error.id != kNumberOverflow, "{}: not valid JSON: a number{} is too large", where,
          key.empty() ? "" : " behind '" + printable(key) + "'");
  const std::string_view what = error.what();
  const std::size_t colon = what.find("] ");
  fail("{}: not valid JSON: {}", where,
       printable(what.substr(colon == std::string_view::npos ? 0 : colon + 2)));
}

// Looks at a document without building it, in time proportional to it: the parser's own callbacks take
// quadratic time for many objects in one list.
class Checker final : public nlohmann::json_sax<Json> {
 public:
  explicit Checker(const std::string& where) : where_(where) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return enter(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t& key) override {
    require(keys_.back().insert(key).second, "{}: key '{}' appears twice", where_, printable(key));
    key_ = key;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    fail_at(where_, key_, error);
  }

 private:
  bool value() {
    require(++values_ <= kMostValues, "{}: has more than {} values", where_, kMostValues);
    return true;
  }
  bool enter() {
    require(keys_.size() < kMostDepth, "{}: nested deeper than {}", where_, kMostDepth);
    keys_.emplace_back();
    return value();
  }
  bool leave() {
    keys_.pop_back();
    return true;
  }

  const std::string& where_;
  std::string key_;  // the last
  std::size_t values_ = 0;
  std::vector<std::set<std::string, std::less<>>> keys_;  // of each object that we are in; none of a list
};

}  // namespace

Json parse_json_object(std::string_view text, std::string_view where) {
  const std::string shown = printable(where);
  require(text.find('\0') == std::string_view::npos, "{}: has a zero byte", shown);
  Checker checker(shown);
  Json::sax_parse(text.begin(), text.end(), &checker);
  Json json = Json::parse(text.begin(), text.end());
  require(json.is_object(), "{}: is of type {}, expected an object", shown, json.type_name());
  return json;
}

std::uint64_t whole_number(const Json& object, const char* key, std::string_view where, std::uint64_t most) {
  const Json& value = object.at(key);
  require(value.is_number_unsigned() && value.get<std::uint64_t>() <= most,
          "{}: {} is {}, expected a whole number from 0 to {}", printable(where), key,
          printable(value.dump()), most);
  return value.get<std::uint64_t>();
}

std::int64_t config_number(const Json& config, const char* key, std::int64_t missing) {
  const auto found = config.find(key);
  if (found == config.end()) return missing;
  constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
  const bool fits =
      found->is_number_integer() && (!found->is_number_unsigned() || found->get<std::uint64_t>() <= most);
  require(fits, "config.json: {} is {}, expected a whole number", key, printable(found->dump()));
  return found->get<std::int64_t>();
}

bool config_flag(const Json& config, const char* key, bool missing) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return missing;
  require(found->is_boolean(), "config.json: {} is {}, expected true or false", key,
          printable(found->dump(), 80));
  return found->get<bool>();
}

}  // namespace upmoe
