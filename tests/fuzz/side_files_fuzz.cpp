// A stranger's tokenizer_config.json and model card.
#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "upmoe/checkpoint/side_files.h"

namespace upmoe::fuzz {
namespace {

void read_card(std::string_view card) {
  const std::vector<std::string> keys = {"license", "language"};
  std::size_t heads = 0;
  for (const std::string& line : card_lines(card, keys)) {
    check(line != "---" && is_printable(line) && line.size() <= 500, "a line that is not plain text");
    if (line.starts_with(' ') || line.starts_with('-')) continue;
    ++heads;
    check(std::ranges::find(keys, line.substr(0, line.find(':'))) != keys.end(),
          "a key that nobody asked for");
  }
  check(heads <= keys.size(), "a key twice");
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  const std::string text(text_of(data, size));
  only_errors([&] {
    const std::string once = readable_by_both(text, "tokenizer_config.json");
    check(readable_by_both(once, "again") == once, "not done after one time");
  });
  read_card(text);
  read_card("---\n" + text + "\n---\n");
  return 0;
}
