#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "upmoe/checkpoint/own_names.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// What stands in a folder, as far as we know it by name and kind. Only what is known is ever deleted.
struct OwnEntries {
  // Files, and the folders of chat templates and of a download. Journals and marks come last, so that they
  // are removed last: as long as one is there, a later run knows what the rest is.
  std::vector<std::string> known;
  std::string foreign;  // the first of all others, with what it is; empty: there is none
  bool has_weights = false, has_config = false;
  bool has_journal = false;
  bool is_replaced = false;  // an old output, of which a run that replaced it has left this
  bool has_bytes = false;    // in any of its files
};

// Of a checkpoint: files of such names, and links; and working files of a run that was killed just after it
// gave the folder its name. Of a partial folder: files of such names that have no other name.
OwnEntries own_entries(const FileDescriptor& folder, OwnKind kind);

// By their names, in a folder that a run of ours holds: what is no part of an output. Journals, hashes of
// ranks.
std::vector<std::string> working_files(const FileDescriptor& folder);

// Deletes what is known, through the open folder. What has come in the meantime stays.
void remove_known(const FileDescriptor& folder, const OwnEntries& entries,
                  const std::filesystem::path& shown);

}  // namespace upmoe
