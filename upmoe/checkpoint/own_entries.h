#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// What stands in a folder, as far as we know it by name and kind. Only what is known is ever deleted.
struct OwnEntries {
  std::vector<std::string> known;  // files, and the folders of chat templates and of a download
  std::string foreign;             // the first of all others, with what it is; empty: there is none
  bool has_weights = false, has_config = false;
  bool has_journal = false;  // or is about to lose it: the record of a whole output stands there
  bool has_bytes = false;    // in any of its files
};

// `checkpoint`: the files that a checkpoint of ours or of transformers has, and links of such names; and the
// working files of a run that was killed just after it gave the folder its name.
// `partial`: those and the working files of a conversion, each of them a file that has no other name.
enum class OwnKind { checkpoint, partial };
bool is_own_name(std::string_view name, OwnKind kind);
OwnEntries own_entries(const FileDescriptor& folder, OwnKind kind);

// By their names, in a folder that a run of ours holds: what is no part of an output. Journals, hashes of
// ranks.
std::vector<std::string> working_files(const FileDescriptor& folder);

// Deletes what is known, through the open folder. What has come in the meantime stays.
void remove_known(const FileDescriptor& folder, const OwnEntries& entries,
                  const std::filesystem::path& shown);

FileDescriptor open_folder(const std::filesystem::path& path);  // which is no link

}  // namespace upmoe
