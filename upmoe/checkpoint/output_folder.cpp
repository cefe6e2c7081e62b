#include "upmoe/checkpoint/output_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/own_entries.h"
#include "upmoe/io/apart.h"
#include "upmoe/io/open_folder.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

std::string shown(const fs::path& path) { return printable(path.string()); }

const std::string kUnfinished = ".upmoe-partial", kAside = ".upmoe-old";

// The absolute place without a trailing slash; links in it are followed.
fs::path resolved(const fs::path& place) {
  require(!place.empty(), "the path of the output folder is empty");
  std::error_code error;
  fs::path out = fs::weakly_canonical(fs::absolute(place), error);
  require(!error, "{}: {}", shown(place), error.message());
  if (!out.has_filename()) out = out.parent_path();
  require(out.has_filename(), "{}: cannot be the name of a new folder", shown(place));
  for (const std::string& end : {kUnfinished, kAside})
    require(!out.filename().string().ends_with(end),
            "{}: names that end in {} are reserved for unfinished outputs; choose another", shown(place),
            end);
  return out;
}

fs::path partial_of(const fs::path& place) { return place.string() + kUnfinished; }
fs::path aside_of(const fs::path& place) { return place.string() + kAside; }

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() > fs::file_type::not_found;
}

// What --replace may replace: a folder with a model's configuration and its weights, and with nothing but
// what belongs to them; or an empty one. `place` is how it is called in messages.
OwnEntries replaceable(const FileDescriptor& folder, const fs::path& place) {
  require(folder.get() >= 0, "{}: cannot open: {}", shown(place), ErrnoText{});
  OwnEntries entries = own_entries(folder, OwnKind::checkpoint);
  const std::size_t marks = entries.is_replaced ? 1 : 0;
  if (entries.known.size() == marks && entries.foreign.empty()) return entries;
  require(
      entries.has_config && entries.has_weights,
      "{}: is not a checkpoint folder (it has no config.json and weights), so --replace does not replace it",
      shown(place));
  require(
      entries.foreign.empty(),
      "{}: holds {}, which is not part of a checkpoint, so --replace does not replace it; move it away, or "
      "choose another output",
      shown(place), entries.foreign);
  return entries;
}

bool is_same(const FileDescriptor& folder, const fs::path& path) {
  const std::optional<FileIdentity> there = identity_at(path);
  return there && there->is_same_file(identity_of(folder, path));
}

// What is under the name of a partial folder may be anything: only a run's work is continued or removed.
OwnEntries left_by_a_run(const FileDescriptor& folder, const fs::path& partial,
                         OutputFolder::Leftover leftover) {
  OwnEntries entries = own_entries(folder, OwnKind::partial);
  if (leftover == OutputFolder::Leftover::share && !is_same(folder, partial))
    return entries;  // another rank has finished it just now
  if (entries.is_replaced) {
    require(leftover == OutputFolder::Leftover::refuse,
            "{}: is an old output, which a run was replacing when it was killed; delete it, or start over "
            "with --replace",
            shown(partial));
    entries = own_entries(folder, OwnKind::checkpoint);
  }
  require(entries.foreign.empty(), "{}: holds {}, which no run of upmoe has written; move it away",
          shown(partial), entries.foreign);
  require(entries.has_journal || entries.is_replaced || !entries.has_bytes,
          "{}: holds no journal of a run of upmoe; if nobody needs it, delete the folder", shown(partial));
  return entries;
}

// A mount point can't be renamed, so nothing can appear there at once.
bool is_mount_point(const fs::path& place) {
  struct stat here {
  }, above{};
  return ::stat(place.c_str(), &here) == 0 && ::stat(place.parent_path().c_str(), &above) == 0 &&
         here.st_dev != above.st_dev;
}

void check_place(const fs::path& place, bool replace) {
  if (!is_there(place)) return;
  std::error_code error;
  require(fs::is_directory(place, error), "{}: exists and is not a folder", shown(place));
  require(!is_mount_point(place), "{}: is a mount point, which can't be replaced; choose a folder in it",
          shown(place));
  if (fs::is_empty(place, error)) return;
  require(replace, "{}: exists already; choose another output, or replace it with --replace", shown(place));
  replaceable(open_folder(place), place);
  // Where folders can't be exchanged the old one steps aside, to this name.
  require(!is_there(aside_of(place)), "{}: left behind by a run that replaced {}; move it away",
          shown(aside_of(place)), shown(place));
}

// That a folder can be made at `place`, by the nearest folder above it that is there.
void check_parent(const fs::path& place) {
  fs::path parent = place.parent_path();
  while (!is_there(parent)) parent = parent.parent_path();
  std::error_code error;
  require(fs::is_directory(parent, error), "{}: cannot make the folder: {} is a file", shown(place),
          shown(parent));
  require(::access(parent.c_str(), W_OK | X_OK) == 0, "{}: cannot make the folder in {}: {}", shown(place),
          shown(parent), ErrnoText{});
}

// That a run may continue in the partial folder of an earlier one, or empty it.
OwnEntries usable(const FileDescriptor& folder, const fs::path& partial, bool replace,
                  OutputFolder::Leftover leftover) {
  require(leftover != OutputFolder::Leftover::refuse || replace,
          "{}: an earlier run was killed and has left this; continue it with --resume, or start over with "
          "--replace",
          shown(partial));
  return left_by_a_run(folder, partial, leftover);
}

// The old output, locked: under the name of a partial folder another run would take it for one to empty. The
// mark tells a later run what it is, should this one be killed.
FileDescriptor lock_replaced(const fs::path& place) {
  FileDescriptor folder = open_folder(place);
  require(folder.get() >= 0, "{}: cannot open: {}", shown(place), ErrnoText{});
  const bool locked = ::flock(folder.get(), LOCK_EX | LOCK_NB) == 0;
  require(locked || errno != EWOULDBLOCK, "{}: another run is replacing it", shown(place));
  require(locked, "{}: cannot lock the folder: {}", shown(place), ErrnoText{});
  const int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
  const FileDescriptor mark(::openat(folder.get(), kReplacedMark, flags, 0666));
  return folder;
}

// replaceable(), now that the folder is at `at`; one that is not, or is another, gets its name back first.
OwnEntries replaceable_or(const FileDescriptor& folder, const fs::path& at, const fs::path& place,
                          auto&& give_back) {
  try {
    require(is_same(folder, at), "{}: has just been replaced by another folder", shown(place));
    return replaceable(folder, place);
  } catch (...) {
    ::unlinkat(folder.get(), kReplacedMark, 0);
    give_back();
    throw;
  }
}

void remove_replaced(const FileDescriptor& folder, const OwnEntries& entries, const fs::path& at,
                     const fs::path& place) {
  try {
    remove_known(folder, entries, at);
    require(::rmdir(at.c_str()) == 0, "{}", ErrnoText{});
  } catch (const Error& error) {
    fail("{}: done, but the old folder could not be removed from {}: {}", shown(place), shown(at),
         error.what());
  }
}

// Journals and the like go only when the folder has its name: a refused commit leaves all that --resume goes
// on with. Killed in between, a complete output keeps a journal, which nobody reads there and --replace
// knows.
void remove_working_files(const FileDescriptor& folder, const fs::path& place) {
  const auto remove = [&] { remove_known(folder, {.known = working_files(folder)}, place); };
  try {
    try {
      remove();
    } catch (const Error&) {
      remove();  // a second time: what failed once may pass, and nobody else will
    }
    sync_folder(place);
  } catch (const Error& error) {
    fail("{}: done, but a working file of the run may still be in it: {}", shown(place), error.what());
  }
}

// The folder has its name: that is made durable first. Where it can't be, the output is whole all the same.
void finish_in_place(const FileDescriptor& folder, const fs::path& place) {
  try {
    sync_folder(place.parent_path());
  } catch (const Error&) {
    remove_working_files(folder, place);
    throw;
  }
  remove_working_files(folder, place);
}

int exchange(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
}

}  // namespace

void check_output(const fs::path& place, const fs::path& source, bool replace) {
  const fs::path out = resolved(place);
  for (const fs::path& made : {out, partial_of(out), aside_of(out)}) require_apart(made, source);
  check_place(out, replace);
  check_parent(out);
}

fs::path check_partial(const fs::path& place, bool replace, OutputFolder::Leftover leftover) {
  const fs::path out = resolved(place), partial = partial_of(out);
  if (!is_there(partial)) return partial;
  const FileDescriptor folder = open_folder(partial);
  const int lock = leftover == OutputFolder::Leftover::share ? LOCK_SH : LOCK_EX;
  require(folder.get() >= 0, "{}: cannot open: {}", shown(partial), ErrnoText{});
  require(::flock(folder.get(), lock | LOCK_NB) == 0, "{}: another run is writing this output", shown(out));
  usable(folder, partial, replace, leftover);
  return partial;
}

OutputFolder::OutputFolder(const fs::path& place) : place_(resolved(place)), partial_(partial_of(place_)) {}

// In two steps, so that an error finds a destructor that removes what has been made so far.
OutputFolder::OutputFolder(const fs::path& place, bool replace, Leftover leftover) : OutputFolder(place) {
  replace_ = replace;
  check_place(place_, replace);
  for (fs::path parent = place_.parent_path(); !is_there(parent); parent = parent.parent_path())
    made_parent_ = parent;
  std::error_code error;
  fs::create_directories(place_.parent_path(), error);
  require(!error, "{}: cannot make the folder: {}", shown(place_.parent_path()), error.message());

  const bool share = leftover == Leftover::share;
  const bool is_new = fs::create_directory(partial_, error);
  require(!error, "{}: cannot make the folder: {}", shown(partial_), error.message());
  lock_ = FileDescriptor(::open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (lock_.get() < 0 || ::flock(lock_.get(), (share ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    const int reason = errno;
    lock_ = FileDescriptor(-1);
    if (is_new && reason != EWOULDBLOCK) fs::remove(partial_, error);  // nobody has come to it yet
    if (reason == ENOENT) {                                            // it was there a moment ago
      check_place(place_, replace);
      fail("{}: another run has just finished or abandoned it", shown(place_));
    }
    require(reason != EWOULDBLOCK, "{}: another run is writing this output", shown(place_));
    fail("{}: cannot open and lock: {}", shown(partial_), std::strerror(reason));
  }
  if (is_new) {
    try {
      check_place(place_, replace);  // again: another process may have finished it just now
    } catch (...) {
      lock_ = FileDescriptor(-1);
      fs::remove(partial_, error);
      throw;
    }
    return;
  }
  try {
    require(share || is_at(partial_), "{}: another run has just finished it", shown(place_));
    const OwnEntries left = usable(lock_, partial_, replace, leftover);
    if (leftover == Leftover::refuse) remove_known(lock_, left, partial_);
  } catch (...) {
    lock_ = FileDescriptor(-1);  // it stays as it is
    throw;
  }
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;  // nothing better can be done here than to have tried
  if (keep_) return;
  if (lock_.get() >= 0) remove_partial();
  if (made_parent_.empty()) return;
  for (fs::path parent = place_.parent_path(); fs::remove(parent, ignored) && parent != made_parent_;)
    parent = parent.parent_path();
}

bool OutputFolder::is_at(const fs::path& path) const { return is_same(lock_, path); }

FileDescriptor OutputFolder::wait_for_turn(const std::string& file,
                                           const std::atomic<bool>* cancelled) const {
  FileDescriptor lock(::openat(lock_.get(), file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
  require(lock.get() >= 0, "{}: cannot open: {}", shown(partial_ / file), ErrnoText{});
  // In short steps: a wait in the kernel would go on after a Ctrl-C.
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    require(errno == EINTR || errno == EWOULDBLOCK, "{}: cannot lock: {}", shown(partial_ / file),
            ErrnoText{});
    if (cancelled != nullptr && *cancelled) throw Interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return lock;
}

bool OutputFolder::was_committed() const {
  if (is_at(place_)) return true;
  require(is_there(partial_), "{}: was deleted: {}", shown(partial_), std::strerror(ENOENT));
  require(is_at(partial_), "{}: was replaced by another while this run was writing to it", shown(partial_));
  return false;
}

// Through the open folder, so never those of another that has taken the name.
void OutputFolder::remove_partial() const noexcept {
  try {
    if (!is_at(partial_)) return;
    remove_known(lock_, own_entries(lock_, OwnKind::partial), partial_);
    ::rmdir(partial_.c_str());
  } catch (const std::exception&) {  // nothing better can be done here than to have tried
    return;
  }
}

void OutputFolder::commit() {
  check_place(place_, replace_);  // again: someone may have taken the name in the meantime
  require(!was_committed(), "{}: was completed by another run", shown(place_));
  sync_folder(partial_);
  const bool replacing = replace_ && is_there(place_);
  const FileDescriptor old = replacing ? lock_replaced(place_) : FileDescriptor(-1);
  // An exchange is atomic: there is no moment at which neither the old nor the new folder has the name.
  if (replacing && exchange(partial_, place_) == 0) {
    // By now the old one is there. It is checked once more: what is removed is what was checked.
    const OwnEntries entries = replaceable_or(old, partial_, place_, [&] { exchange(partial_, place_); });
    const FileDescriptor made = std::move(lock_);
    finish_in_place(made, place_);
    remove_replaced(old, entries, partial_, place_);
    return;
  }
  // No exchange on this file system: the old folder steps aside, and is deleted when the new one is in its
  // place.
  const fs::path aside = aside_of(place_);
  OwnEntries entries;
  if (replacing) {
    if (!rename_to_new(place_, aside)) {
      const int reason = errno;
      ::unlinkat(old.get(), kReplacedMark, 0);
      fail("{}: cannot move the old folder aside, to {}: {}", shown(place_), shown(aside),
           std::strerror(reason));
    }
    entries = replaceable_or(old, aside, place_, [&] { std::rename(aside.c_str(), place_.c_str()); });
  }
  if (std::rename(partial_.c_str(), place_.c_str()) != 0) {
    const int reason = errno;
    const bool back = !replacing || std::rename(aside.c_str(), place_.c_str()) == 0;
    if (replacing) ::unlinkat(old.get(), kReplacedMark, 0);
    fail("{}: cannot give the finished folder its name: {}{}", shown(place_), std::strerror(reason),
         back ? "" : "; the old folder is at " + shown(aside));
  }
  const FileDescriptor made = std::move(lock_);
  finish_in_place(made, place_);
  if (replacing) remove_replaced(old, entries, aside, place_);
}

}  // namespace upmoe
