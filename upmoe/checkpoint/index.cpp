#include "upmoe/checkpoint/index.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"

namespace upmoe {

void require_plain_name(std::string_view name, std::string_view named_by) {
  const bool plain = !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
                     std::ranges::none_of(name, [](char c) {
                       return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
                     });
  // What prints as it is can also be written into upmoe.json and a card.
  require(plain && printable(name, 1000) == name,
          "{}: '{}' is not the plain name of a file in the same folder", printable(named_by),
          printable(name));
}

WeightMap parse_index(std::string_view text, std::string_view where) {
  const nlohmann::json json = parse_json_object(text, where);
  const std::string shown = printable(where);
  const auto map = json.find("weight_map");
  require(map != json.end() && map->is_object(), "{}: has no object 'weight_map'", shown);
  require(!map->empty(), "{}: weight_map is empty", shown);
  WeightMap out;
  for (const auto& [tensor, file] : map->items()) {
    require(file.is_string(), "{}: weight_map: the file of '{}' is not a string", shown, printable(tensor));
    const auto& name = file.get_ref<const std::string&>();
    require_plain_name(name, fmt::format("{}: weight_map of '{}'", where, tensor));
    require(name.ends_with(".safetensors"),
            "{}: weight_map: '{}' is in '{}', which does not end in .safetensors", shown, printable(tensor),
            printable(name));
    out.emplace(tensor, name);
  }
  return out;
}

std::string index_text(const WeightMap& map, std::uint64_t total_size, std::uint64_t total_parameters) {
  const nlohmann::json json = {
      {"metadata", {{"total_parameters", total_parameters}, {"total_size", total_size}}},
      {"weight_map", map}};
  return json.dump(2) + "\n";
}

}  // namespace upmoe
