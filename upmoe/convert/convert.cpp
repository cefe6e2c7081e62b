#include "upmoe/convert/convert.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/text.h"
#include "upmoe/checkpoint/output_folder.h"
#include "upmoe/checkpoint/own_entries.h"
#include "upmoe/convert/finished.h"
#include "upmoe/convert/record.h"
#include "upmoe/io/file_descriptor.h"
#include "upmoe/io/open_folder.h"

namespace upmoe {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kJournal = "upmoe-journal";  // in the partial folder, and no part of the output

std::string journal_name(const RankOf& rank) {
  return rank.ranks == 1 ? std::string(kJournal)
                         : fmt::format("{}-{}-of-{}", kJournal, rank.rank, rank.ranks);
}
std::string hashes_name(std::size_t rank, std::size_t ranks) {
  return fmt::format("upmoe-rank-{}-of-{}.json", rank, ranks);
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
  fs::path there = partial;  // or the nearest folder around it, where it is not made yet
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  const fs::space_info space = fs::space(there, error);
  require(error || space.available > needed, "{}: {} are needed, {} are free on that disk",
          printable(partial.parent_path().string()), human_bytes(needed), human_bytes(space.available));
}

OutputFolder::Leftover leftover(const RunOptions& options) {
  return options.rank.ranks > 1 ? OutputFolder::Leftover::share
         : options.resume       ? OutputFolder::Leftover::resume
                                : OutputFolder::Leftover::refuse;
}

// Two processes that write into one folder must be making the same thing.
void require_same_work(const fs::path& partial, const std::string& head) {
  for (const fs::directory_entry& entry : fs::directory_iterator(partial)) {
    if (!entry.path().filename().string().starts_with(kJournal)) continue;
    const JournalText other = parse_journal(read_small_file(entry.path(), 1u << 30));
    if (!other.head.empty()) require_same_head(other.head, head, entry.path());
  }
}

// What an earlier run has left there besides the weights, whole or not; nothing else.
void remove_all_but_weights(const Plan& plan, const fs::path& partial, const std::set<std::string>& also) {
  std::set<std::string> kept = also;
  for (const PlannedFile& file : plan.files) kept.insert(file.name);
  const FileDescriptor folder = open_folder(partial);
  require(folder.get() >= 0, "{}: cannot open: {}", printable(partial.string()), ErrnoText{});
  OwnEntries entries = own_entries(folder, OwnKind::partial);
  std::erase_if(entries.known, [&](const std::string& name) { return kept.contains(name); });
  remove_known(folder, entries, partial);
}

class Conversion {
 public:
  Conversion(const Plan& plan, const fs::path& place, const RunOptions& options)
      : plan_(plan),
        options_(options),
        shared_(options.rank.ranks > 1),
        carried_(side_files(plan.source.folder())),
        card_(source_card(plan.source.folder())),
        output_(place, plan.request.replace, leftover(options)),
        partial_(output_.partial()) {}

  Converted operator()() {
    // What an earlier run has left may be worth hours, so it stays until it is known to be nothing.
    output_.keep(shared_ || (options_.resume && fs::exists(partial_ / kJournal)));
    Converted out;
    try {
      out = shared_ ? run_rank() : run_alone();
      // Until the folder has its name: a rank that comes now waits, and finds it done.
      const FileDescriptor turn = shared_ ? wait_for_turn() : FileDescriptor(-1);
      if (shared_ && output_.was_committed()) return out;
      if (shared_) out.missing = missing_ranks();
      if (!out.missing.empty()) return out;
      write_the_rest(shared_ ? collect_hashes() : out.run.hashes);
      require_weights(out.run.files);
      output_.commit();
      out.completed = true;
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
    return fmt::format("what is done so far is in {}: continue with --resume", printable(partial_.string()));
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

  FileDescriptor wait_for_turn() const {
    return output_.wait_for_turn(plan_.files.front().name, options_.cancelled);
  }

  Converted run_rank() {
    const auto [rank, ranks] = options_.rank;
    const std::string head = journal_head(plan_, ranks);
    const fs::path mine = partial_ / hashes_name(rank, ranks);
    std::optional<Journal> journal;
    {
      // Nobody is completing the output while we look. From here on nobody will before we are done.
      const FileDescriptor turn = wait_for_turn();
      if (output_.was_committed()) return {};
      require_same_work(partial_, head);  // first: what is done may be done of another request
      if (is_done(rank)) return {};
      // Its files will have their size before their bytes, so from here on the hashes say nothing about them.
      if (fs::remove(mine)) sync_folder(partial_);
      journal.emplace(partial_ / journal_name(options_.rank), head);
      require_same_work(partial_, head);  // again: now that others can see ours
    }
    require_room(plan_, partial_, options_);
    Converted out = run_with(*journal);
    const fs::path draft = mine.string() + ".new";
    fs::remove(draft);
    write_small_file(draft, hashes_json(out.run.hashes));
    fs::rename(draft, mine);
    sync_folder(partial_);
    return out;
  }

  bool is_done(std::size_t rank) const {
    const std::size_t ranks = options_.rank.ranks;
    return fs::exists(partial_ / hashes_name(rank, ranks)) &&
           std::ranges::all_of(files_of(plan_, {rank, ranks}), [&](std::size_t f) {
             const std::optional<FileIdentity> there = identity_at(partial_ / plan_.files[f].name);
             return there && there->bytes == plan_.files[f].bytes;
           });
  }

  std::vector<std::size_t> missing_ranks() const {
    std::vector<std::size_t> out;
    for (std::size_t r = 0; r < options_.rank.ranks; ++r)
      if (!is_done(r)) out.push_back(r);
    return out;
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

  void write_the_rest(const TensorHashes& hashes) const {
    // What holds the work together if we are killed or refused before the folder has its name: commit()
    // removes it.
    std::set<std::string> working;
    for (const fs::directory_entry& entry : fs::directory_iterator(partial_))
      if (const std::string name = entry.path().filename().string();
          name.starts_with(kJournal) || name.starts_with("upmoe-rank-"))
        working.insert(name);
    remove_all_but_weights(plan_, partial_, working);
    FileHashes written;
    each_text(plan_, carried_, card_, [&](const std::string& name, std::string_view text) {
      const fs::path folder = (partial_ / name).parent_path();
      if (fs::create_directory(folder)) sync_folder(partial_);
      write_small_file(partial_ / name, text);
      written[name] = xxh3(text);
      if (folder != partial_) sync_folder(folder);
    });
    write_small_file(partial_ / "upmoe.json", manifest_json(plan_, hashes, carried_, written));
    if (options_.cancelled != nullptr && *options_.cancelled) throw Interrupted();
  }

  // That the weights are still there, before they get their name. Those of other ranks by their size.
  void require_weights(const std::map<std::size_t, FileIdentity>& ours) const {
    for (std::size_t f = 0; f < plan_.files.size(); ++f) {
      const fs::path path = partial_ / plan_.files[f].name;
      const std::optional<FileIdentity> there = identity_at(path);
      require(there.has_value(), "{}: was deleted while the output was made: {}", printable(path.string()),
              std::strerror(ENOENT));
      require(ours.contains(f) ? *there == ours.at(f) : there->bytes == plan_.files[f].bytes,
              "{}: was changed by something else while the output was made", printable(path.string()));
    }
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

bool is_done(const Plan& plan, const fs::path& place, const RunOptions& options) {
  return leftover(options) != OutputFolder::Leftover::refuse && !plan.request.replace &&
         is_finished(plan, place);
}

void check_convert(const Plan& plan, const fs::path& place, const RunOptions& options) {
  check_output(place, plan.request.folder, plan.request.replace);
  const fs::path partial = check_partial(place, plan.request.replace, leftover(options));
  if (fs::exists(partial) && !plan.request.replace)
    require_same_work(partial, journal_head(plan, options.rank.ranks));
  require_room(plan, partial, options);
}

Converted convert(const Plan& plan, const fs::path& place, const RunOptions& options) {
  check_output(place, plan.request.folder, plan.request.replace);
  return Conversion(plan, place, options)();
}

}  // namespace upmoe
