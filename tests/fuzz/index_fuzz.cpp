// model.safetensors.index.json: whatever file names come out of it, none leaves the folder.
#include <filesystem>

#include "tests/fuzz/fuzz.h"
#include "upmoe/checkpoint/index.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace upmoe;
  using namespace upmoe::fuzz;
  only_errors([&] {
    const WeightMap map = parse_index(text_of(data, size), "model.safetensors.index.json");
    for (const auto& [tensor, file] : map) {
      const std::filesystem::path place = ("folder" / std::filesystem::path(file)).lexically_normal();
      check(place.parent_path() == "folder" && place.has_filename(), "a name that leaves the folder");
    }
    check(parse_index(index_text(map, 0, 0), "again") == map, "another index after writing");
  });
  return 0;
}
