#include "upmoe/base/options.h"

namespace upmoe {

NamedValues parse_named_values(std::string_view text) {
  const std::string all = printable(text);
  const auto next = [&] {
    const std::size_t end = std::min(text.find(','), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return word;
  };
  NamedValues out{.name = std::string(next()), .values = {}};
  while (!text.empty()) {
    const std::string_view word = next();
    const std::size_t equals = word.find('=');
    require_asked(equals != std::string_view::npos && equals > 0,
                  "'{}': '{}' is not KEY=VALUE; expected NAME,KEY=VALUE,...", all, printable(word));
    const std::string key(word.substr(0, equals));
    require_asked(out.values.emplace(key, word.substr(equals + 1)).second, "'{}': '{}' is given twice", all,
                  printable(key));
  }
  require_asked(!out.name.empty(), "'{}': the name is missing; expected NAME or NAME,KEY=VALUE,...", all);
  return out;
}

}  // namespace upmoe
