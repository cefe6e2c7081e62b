#include "upmoe/convert/finished.h"

#include <nlohmann/json.hpp>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/json.h"
#include "upmoe/convert/journal.h"
#include "upmoe/convert/record.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

constexpr const char* kHint = "choose another output, or replace it with --replace";

// What this plan writes into upmoe.json.
std::string record_now(const Plan& plan) {
  const std::vector<SideFile> carried = side_files(plan.source.folder());
  FileHashes written;
  each_text(plan, carried, source_card(plan.source.folder()),
            [&](const std::string& name, std::string_view text) { written[name] = xxh3(text); });
  return manifest_json(plan, {}, carried, written);
}

// Without what only the weights' bytes tell, and without what repeats the options.
std::string comparable(std::string_view record, const std::string& where) {
  nlohmann::json json = parse_json_object(record, where);
  for (const char* key : {"command", "experts", "top_k"}) json.erase(key);
  for (const char* key : {"source", "output"})
    if (json.contains(key) && json[key].is_object()) json[key].erase("tensors");
  return json.dump();
}

}  // namespace

bool is_finished(const Plan& plan, const fs::path& place) {
  const fs::path path = place / "upmoe.json";
  const std::optional<FileIdentity> record = identity_at(path);
  if (!record) return false;
  const std::string where = printable(place.string());
  const std::string other = difference(comparable(read_small_file(path, 1u << 30), path.string()),
                                       comparable(record_now(plan), "upmoe.json"));
  require(other.empty(), "{}: exists already, and the run that made it {}; {}", where, other, kHint);
  for (const PlannedFile& file : plan.files) {
    const std::optional<FileIdentity> there = identity_at(place / file.name);
    require(there && there->bytes == file.bytes, "{}: exists already, but {} is missing or incomplete; {}",
            where, file.name, kHint);
  }
  for (const SafetensorsFile& file : plan.source.files().files())
    require(file.identity().modified <= record->modified,
            "{}: exists already, and {} was changed after it was made; {}", where,
            printable(file.path().string()), kHint);
  return true;
}

}  // namespace upmoe
