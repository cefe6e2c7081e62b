#pragma once
#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"

namespace upmoe {

// A plug-in describes its options once, in a struct of defaults with a visitor:
//   struct Options {
//     double ratio = 0.5;
//     void visit(auto&& field) { field(ratio, "ratio", "share of the neurons that is re-drawn, 0 to 1"); }
//   };
// Parsing, --help, shell completion, recipes and the record in upmoe.json all come from that one list.

using Values = std::map<std::string, std::string>;  // option name -> what was written

// "NAME" or "NAME,key=value,...": a plug-in with its options.
struct NamedValues {
  std::string name;
  Values values;
};
NamedValues parse_named_values(std::string_view text);

// One of a few words. A bool is a flag: it takes no value on the command line.
struct Choice {
  std::string value;
  std::vector<std::string> of;
};

// Some of a few words, each once and in the order of `of`. May be given several times, or with commas.
struct Choices {
  std::vector<std::string> values;
  std::vector<std::string> of;
};

struct OptionInfo {
  std::string name, preset, help;
  std::vector<std::string> choices;  // empty: any value of its type
  std::string type;                  // "number", "integer", "text", "flag", "list"
};

namespace option_value {

template <class Number>
  requires std::same_as<Number, double> || std::same_as<Number, std::int64_t>
void read(Number& field, std::string_view name, std::string_view text) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), field);
  const bool finite = std::isfinite(static_cast<double>(field));  // from_chars also reads "nan" and "inf"
  if (error != std::errc() || end != text.data() + text.size() || !finite)
    throw UsageError(fmt::format("option '{}': '{}' is not {}", name, printable(text),
                                 std::same_as<Number, double> ? "a number" : "a whole number"));
}
inline void read(Choice& field, std::string_view name, std::string_view text) {
  if (std::ranges::find(field.of, text) == field.of.end())
    throw UsageError(fmt::format("option '{}': there is no '{}'; there are: {}{}", name, printable(text),
                                 join(field.of), guess(text, field.of)));
  field.value = text;
}
inline void read(Choices& field, std::string_view name, std::string_view text) {
  std::vector<std::string> asked;
  while (!text.empty()) {
    Choice one{"", field.of};
    const std::size_t end = std::min(text.find(','), text.size());
    read(one, name, text.substr(0, end));
    asked.push_back(one.value);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  field.values.clear();
  for (const std::string& word : field.of)
    if (std::ranges::find(asked, word) != asked.end()) field.values.push_back(word);
}

inline void read(std::string& field, std::string_view /*name*/, std::string_view text) { field = text; }
inline void read(bool& field, std::string_view name, std::string_view text) {
  if (text != "true" && text != "false")
    throw UsageError(fmt::format("option '{}': '{}' is neither true nor false", name, printable(text)));
  field = text == "true";
}

inline std::string write(double value) { return fmt::format("{}", value); }
inline std::string write(std::int64_t value) { return fmt::format("{}", value); }
inline std::string write(const Choice& value) { return value.value; }
inline std::string write(const Choices& value) { return join(value.values, ","); }
inline std::string write(const std::string& value) { return value; }
inline std::string write(bool value) { return value ? "true" : "false"; }

inline std::vector<std::string> choices(const auto& /*field*/) { return {}; }
inline std::vector<std::string> choices(const Choice& field) { return field.of; }
inline std::vector<std::string> choices(const Choices& field) { return field.of; }

inline const char* type_name(double) { return "number"; }
inline const char* type_name(std::int64_t) { return "integer"; }
inline const char* type_name(bool) { return "flag"; }
inline const char* type_name(const std::string&) { return "text"; }
inline const char* type_name(const Choice&) { return "text"; }
inline const char* type_name(const Choices&) { return "list"; }

}  // namespace option_value

// The options with their values: defaults for a fresh struct, the resolved ones after parsing.
template <class Options>
std::vector<OptionInfo> describe(Options options = {}) {
  std::vector<OptionInfo> out;
  options.visit([&](auto& field, const char* name, const char* help) {
    out.push_back({name, option_value::write(field), help, option_value::choices(field),
                   option_value::type_name(field)});
  });
  return out;
}

// `owner` is who the options belong to, for the message: "method 'drop'".
template <class Options>
Options parse(const Values& values, std::string_view owner) {
  Options options;
  Values left = values;
  std::vector<std::string> known;
  options.visit([&](auto& field, const char* name, const char* /*help*/) {
    known.emplace_back(name);
    if (const auto it = left.find(name); it != left.end()) {
      option_value::read(field, name, it->second);
      left.erase(it);
    }
  });
  if (!left.empty())
    throw UsageError(fmt::format("{} has no option '{}'; it has: {}{}", owner, printable(left.begin()->first),
                                 known.empty() ? "none" : join(known), guess(left.begin()->first, known)));
  return options;
}

// For plug-ins without options.
struct NoOptions {
  void visit(auto&& /*field*/) {}
};

}  // namespace upmoe
