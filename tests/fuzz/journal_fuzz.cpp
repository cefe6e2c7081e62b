// The journal of a run that was killed, cut or damaged anywhere. The input is read twice: as the text, and as
// the contents of a journal whose hashes are right (its first line the head, the others records), so that
// what lies behind the hashes is seen as well.
#include "tests/fuzz/fuzz.h"
#include "upmoe/base/hash.h"
#include "upmoe/convert/journal.h"

namespace upmoe::fuzz {
namespace {

void read(std::string_view text) {
  const JournalText found = parse_journal(text);
  check(found.valid_bytes <= text.size(), "more is believed than there is");
  check(found.valid_bytes > 0 || (found.head.empty() && found.blocks.empty()), "something from nothing");
  check(found.head.find('\n') == std::string::npos, "a head of two lines");
  // What is believed does not depend on what was torn behind it.
  const JournalText again = parse_journal(text.substr(0, found.valid_bytes));
  check(again.valid_bytes == found.valid_bytes && again.head == found.head && again.blocks == found.blocks,
        "another journal without its torn end");
  // And one that was cut in front of a record has no more than the whole one.
  const JournalText cut = parse_journal(text.substr(0, text.size() / 2));
  check(cut.valid_bytes <= found.valid_bytes && cut.blocks.size() <= found.blocks.size(), "more from less");
  if (found.head.empty()) return;
  only_errors([&] {
    require_same_head(found.head, R"({"options":{"method":"drop","ratio":"0.5"},"source":{"w":"00ff"}})",
                      "out.upmoe-partial/upmoe-journal");
  });
  require_same_head(found.head, found.head, "upmoe-journal");
}

// The text with the hash that belongs to it behind every line.
std::string with_hashes(std::string_view lines) {
  std::string out;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const std::string line(lines.substr(0, end));
    lines.remove_prefix(std::min(end + 1, lines.size()));
    out += out.empty() ? "upmoe-journal 1 " + hex(xxh3(line)) + " " + line + "\n"
                       : line + " " + hex(xxh3(line + " ")) + "\n";
  }
  return out;
}

}  // namespace
}  // namespace upmoe::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe::fuzz;
  read(text_of(data, size));
  read(with_hashes(text_of(data, size)));
  return 0;
}
