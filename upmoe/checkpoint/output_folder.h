#pragma once
#include <filesystem>
#include <string>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// A folder that appears whole or not at all. It is made under another name beside its place,
// NAME.upmoe-partial, and renamed by commit(); the destructor of one that was not committed removes every
// trace. While it lives, a lock on the partial folder keeps a second run away.
class OutputFolder {
 public:
  // With `replace` an existing checkpoint folder of that name is replaced at commit(), and the partial folder
  // of a killed run is removed; without, both are errors. What isn't a checkpoint folder is never replaced.
  OutputFolder(const std::filesystem::path& place, bool replace);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& partial() const { return partial_; }

  // Makes it durable and gives it its name. All files in it must be durable already.
  void commit();

 private:
  explicit OutputFolder(const std::filesystem::path& place);

  std::filesystem::path place_, partial_, made_parent_;  // made_parent_: topmost folder that we had to make
  bool replace_ = false;
  FileDescriptor lock_{-1};
};

// Where an output would go, checked without making anything: what exists there, and that it isn't the source.
void check_output(const std::filesystem::path& place, const std::filesystem::path& source, bool replace);

}  // namespace upmoe
