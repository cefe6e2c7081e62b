#include "upmoe/cli_engine/choice_source.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/cli/python.h"

namespace upmoe::cli {
namespace {

eval::Question parse_question(std::string_view line) {
  const nlohmann::json said = nlohmann::json::parse(line);
  eval::Question out;
  said.at("id").get_to(out.id);
  said.at("context").get_to(out.context);
  said.at("choices").get_to(out.choices);
  said.at("characters").get_to(out.characters);
  said.at("answer").get_to(out.answer);
  return out;
}

}  // namespace

std::vector<eval::Question> read_questions(const std::string& file, const std::filesystem::path& model) {
  const std::string said = run_upmoe_python({"choices", "--", model.string(), file});
  std::vector<eval::Question> out;
  for (std::string_view left = said; !left.empty();) {
    const std::size_t end = left.find('\n');
    out.push_back(parse_question(left.substr(0, end)));
    left.remove_prefix(end == std::string_view::npos ? left.size() : end + 1);
  }
  require(!out.empty(), "{}: has no question", printable(file));
  return out;
}

}  // namespace upmoe::cli
