#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "upmoe/checkpoint/folder.h"
#include "upmoe/inspect/record.h"

namespace upmoe {

// What became of the files of an output, by the hashes in its record.
struct FilesReceipt {
  std::size_t num_files = 0;  // beside weights, config.json, card and record
  // Those that are missing or have other bytes, that a loader would take for a part of the model, and those
  // of which the record should have a hash.
  std::vector<std::string> broken;
  std::vector<std::string> notes;  // what is no failure: another card, other shards, files that came later
  bool has_config_as_written = false;
};
FilesReceipt compare_files(const Folder& folder, const Weights& weights, const Record& record);

// Each field that is not as expected: "rope_theta is 5000.0, expected 10000.0".
struct ConfigDifferences {
  std::vector<std::string> broken;
  std::vector<std::string>
      notes;  // what save_pretrained adds and changes, and nothing that is computed follows
};
ConfigDifferences config_differences(const nlohmann::json& found, const nlohmann::json& expected);

}  // namespace upmoe
