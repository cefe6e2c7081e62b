#include "upmoe/convert/convert.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/output_folder.h"
#include "upmoe/convert/record.h"
#include "upmoe/io/file_descriptor.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

// Names in the partial folder that are no part of the output.
constexpr std::string_view kJournal = "upmoe-journal";
constexpr std::string_view kFinishing = "upmoe-finishing";  // locked by the rank that completes the output

std::string journal_name(const RankOf& rank) {
  return rank.ranks == 1 ? std::string(kJournal)
                         : fmt::format("{}-{}-of-{}", kJournal, rank.rank, rank.ranks);
}
std::string hashes_name(std::size_t rank, std::size_t ranks) {
  return fmt::format("upmoe-rank-{}-of-{}.json", rank, ranks);
}

std::string source_card(const Folder& source) {
  return source.has("README.md") ? read_small_file(source.file("README.md", source.path().string())) : "";
}

void require_room(const Plan& plan, const fs::path& partial, const RunOptions& options) {
  std::uint64_t needed = 0;
  for (const std::size_t f : files_of(plan, options.rank)) {
    struct stat there {};
    const bool is_there = ::stat((partial / plan.files[f].name).c_str(), &there) == 0;
    const std::uint64_t has = is_there ? static_cast<std::uint64_t>(there.st_blocks) * 512 : 0;
    needed += plan.files[f].bytes - std::min(plan.files[f].bytes, has);
  }
  if (options.reflink) return;  // how much of it is shared is not known yet
  std::error_code error;
  const fs::space_info space = fs::space(partial, error);
  require(error || space.available > needed, "{}: {} are needed, {} are free on that disk",
          printable(partial.parent_path().string()), human_bytes(needed), human_bytes(space.available));
}

// Two processes that write into one folder must be making the same thing.
void require_same_work(const fs::path& partial, const std::string& head) {
  for (const fs::directory_entry& entry : fs::directory_iterator(partial)) {
    if (!entry.path().filename().string().starts_with(kJournal)) continue;
    const JournalText other = parse_journal(read_small_file(entry.path(), 1u << 30));
    if (!other.head.empty()) require_same_head(other.head, head, entry.path());
  }
}

// What an earlier run has left there besides the weights, whole or not.
void remove_all_but_weights(const Plan& plan, const fs::path& partial, const std::set<std::string>& also) {
  std::set<std::string> kept = also;
  for (const PlannedFile& file : plan.files) kept.insert(file.name);
  for (const fs::directory_entry& entry : fs::directory_iterator(partial))
    if (!kept.contains(entry.path().filename().string())) fs::remove_all(entry.path());
}

class Conversion {
 public:
  Conversion(const Plan& plan, const fs::path& place, const RunOptions& options)
      : plan_(plan),
        options_(options),
        shared_(options.rank.ranks > 1),
        carried_(side_files(plan.source.folder())),
        card_(source_card(plan.source.folder())),
        output_(place, plan.request.replace,
                shared_          ? OutputFolder::Leftover::share
                : options.resume ? OutputFolder::Leftover::resume
                                 : OutputFolder::Leftover::refuse),
        partial_(output_.partial()) {}

  Converted operator()() {
    // What an earlier run has left may be worth hours, so it stays until it is known to be nothing.
    output_.keep(shared_ || (options_.resume && fs::exists(partial_ / kJournal)));
    Converted out;
    try {
      out = shared_ ? run_rank() : run_alone();
      const FileDescriptor finishing = shared_ && out.missing.empty() ? lock_finishing() : FileDescriptor(-1);
      if (!out.missing.empty() || (shared_ && finishing.get() < 0)) return out;
      write_the_rest(shared_ ? collect_hashes() : out.run.hashes);
      output_.commit();
    } catch (const Interrupted&) {
      if (!kept_) throw;
      throw Interrupted("interrupted; " + hint());
    } catch (const Error& error) {
      if (!kept_) throw;
      throw Error(std::string(error.what()) + "; " + hint());
    }
    return out;
  }

 private:
  std::string hint() const {
    return fmt::format("what is done so far is in {}: go on with --resume", printable(partial_.string()));
  }

  Converted run_alone() {
    require_same_work(partial_, journal_head(plan_, 1));
    require_room(plan_, partial_, options_);
    Journal journal(partial_ / kJournal, journal_head(plan_, 1));
    return run_with(journal);
  }

  Converted run_with(Journal& journal) {
    const auto keep_what_is_worth_it = [&] {
      kept_ = shared_ || (options_.resume && !journal.is_empty());
      output_.keep(kept_);
    };
    try {
      Converted out{run_plan(plan_, partial_, options_, journal), {}};
      keep_what_is_worth_it();
      return out;
    } catch (...) {
      keep_what_is_worth_it();
      throw;
    }
  }

  // ---- several ranks ----

  Converted run_rank() {
    const auto [rank, ranks] = options_.rank;
    const std::string head = journal_head(plan_, ranks);
    require_same_work(partial_, head);
    Journal journal(partial_ / journal_name(options_.rank), head);
    require_same_work(partial_, head);  // again: now that others can see ours
    const fs::path mine = partial_ / hashes_name(rank, ranks);
    Converted out;
    if (!fs::exists(mine)) {
      require_room(plan_, partial_, options_);
      out = run_with(journal);
      const fs::path draft = mine.string() + ".new";
      fs::remove(draft);
      write_small_file(draft, hashes_json(out.run.hashes));
      fs::rename(draft, mine);
      sync_folder(partial_);
    }
    for (std::size_t r = 0; r < ranks; ++r)
      if (!fs::exists(partial_ / hashes_name(r, ranks))) out.missing.push_back(r);
    return out;
  }

  // None when another rank has completed the output meanwhile.
  FileDescriptor lock_finishing() const {
    const fs::path path = partial_ / kFinishing;
    FileDescriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (lock.get() < 0 && errno == ENOENT) return lock;
    require(lock.get() >= 0 && ::flock(lock.get(), LOCK_EX) == 0, "{}: cannot lock: {}",
            printable(path.string()), ErrnoText{});
    struct stat ours {
    }, there{};
    const bool is_same = ::fstat(lock.get(), &ours) == 0 && ::stat(path.c_str(), &there) == 0 &&
                         ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
    return is_same ? std::move(lock) : FileDescriptor(-1);
  }

  TensorHashes collect_hashes() const {
    TensorHashes out;
    const std::size_t ranks = options_.rank.ranks;
    for (std::size_t r = 0; r < ranks; ++r) {
      const std::string where = (partial_ / hashes_name(r, ranks)).string();
      TensorHashes some = parse_hashes(read_small_file(where, 1u << 30), where);
      out.output.merge(some.output);
      for (const auto& [name, hash] : some.source)
        require(out.source.emplace(name, hash).first->second == hash,
                "{}: this rank has read another '{}' than the ranks before it: do all see the same source?",
                printable(where), printable(name));
    }
    return out;
  }

  // ---- all but the weights ----

  void write(const std::string& name, std::string_view text) const {
    write_small_file(partial_ / name, text);
  }

  void write_the_rest(const TensorHashes& hashes) const {
    std::set<std::string> working;  // what still holds the work together when we are killed now
    for (const fs::directory_entry& entry : fs::directory_iterator(partial_))
      if (const std::string name = entry.path().filename().string();
          name.starts_with(kJournal) || name.starts_with("upmoe-rank-") || name == kFinishing)
        working.insert(name);
    remove_all_but_weights(plan_, partial_, working);
    for (const SideFile& file : carried_) {
      const fs::path folder = (partial_ / file.name).parent_path();
      if (fs::create_directory(folder)) sync_folder(partial_);
      write(file.name, file.text);
      if (folder != partial_) sync_folder(folder);
    }
    if (plan_.files.size() > 1) write("model.safetensors.index.json", index_json(plan_));
    write("config.json", config_json(plan_));
    write("upmoe.json", manifest_json(plan_, hashes, carried_));
    write("upmoe-recipe.toml", recipe_toml(plan_));
    write("README.md", model_card(plan_, card_));
    if (options_.cancelled != nullptr && *options_.cancelled) throw Interrupted();
    for (const std::string& name : working) fs::remove(partial_ / name);
  }

  const Plan& plan_;
  const RunOptions& options_;
  const bool shared_;
  const std::vector<SideFile> carried_;
  const std::string card_;
  OutputFolder output_;
  const fs::path partial_;
  bool kept_ = false;
};

}  // namespace

Converted convert(const Plan& plan, const fs::path& place, const RunOptions& options) {
  check_output(place, plan.request.folder, plan.request.replace);
  return Conversion(plan, place, options)();
}

}  // namespace upmoe
