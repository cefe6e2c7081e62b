#pragma once
#include <atomic>
#include <filesystem>
#include <string>

#include "upmoe/io/file_descriptor.h"

namespace upmoe {

// A folder that appears whole or not at all. It is made under another name beside its place,
// NAME.upmoe-partial, and renamed by commit(); the destructor of one that was not committed removes every
// trace. While it lives, a lock on the partial folder keeps a second run away.
class OutputFolder {
 public:
  // What to do with the partial folder of an earlier run: nothing (an error, but with `replace` it is
  // emptied); go on in it; or be one of several processes that write into it together.
  enum class Leftover { refuse, resume, share };

  // With `replace` an existing checkpoint folder of that name is replaced at commit(); without, it is an
  // error. Only a folder with nothing but what a checkpoint has is ever replaced (own_entries.h), and only
  // what a run has left is emptied or gone on with.
  OutputFolder(const std::filesystem::path& place, bool replace, Leftover leftover = Leftover::refuse);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& partial() const { return partial_; }

  // From here on the partial folder stays when there is no commit(): for a later run to go on, or for others.
  void keep(bool yes = true) { keep_ = yes; }

  // Of several processes one at a time goes on from here, until what is returned is gone. The lock is on
  // `file`, one of the output's own, which goes along to the final place: two can never hold one each.
  // Throws Interrupted when `cancelled` becomes true meanwhile.
  FileDescriptor wait_for_turn(const std::string& file, const std::atomic<bool>* cancelled) const;
  // Whether another process has given the folder its name. Throws when it is neither there nor here.
  bool was_committed() const;

  // Makes it durable, gives it its name, and removes the working files of the run from it. All files in it
  // must be durable already.
  void commit();

 private:
  explicit OutputFolder(const std::filesystem::path& place);
  bool is_at(const std::filesystem::path& path) const;
  void remove_partial() const noexcept;

  std::filesystem::path place_, partial_, made_parent_;  // made_parent_: topmost folder that we had to make
  bool replace_ = false, keep_ = false;
  FileDescriptor lock_{-1};
};

// Where an output would go, checked without making anything: what exists there, whether the folder around it
// can be written to, and that neither the output nor what is made beside it is the source, lies in it or has
// it inside.
void check_output(const std::filesystem::path& place, const std::filesystem::path& source, bool replace);

// The same of what an earlier run has left there. Gives the partial folder's place.
std::filesystem::path check_partial(const std::filesystem::path& place, bool replace,
                                    OutputFolder::Leftover leftover);

}  // namespace upmoe
