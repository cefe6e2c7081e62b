// The output is one stream of bytes a file, cut into blocks that know nothing of tensors:
//
//   readers:  chunks of the source, in the order in which tasks need them, as far ahead as there are slots
//
//   workers:  free buffer + next task -> scan a part of the source, or
//                                        fill a block, piece of tensor by piece -> in turn: hash -> submit
//
//   writers:  write it, note it in the journal -> give the buffer back
//
// A block that the journal knows is read back instead of filled, and kept if its hash is the journal's.
#include "upmoe/convert/run.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "upmoe/base/error.h"
#include "upmoe/base/hash.h"
#include "upmoe/base/parallel.h"
#include "upmoe/convert/read_ahead.h"
#include "upmoe/convert/schedule.h"
#include "upmoe/io/block_writer.h"

namespace upmoe {
namespace {

constexpr std::size_t kReaderThreads = 2, kWriterThreads = 2;
constexpr std::size_t kMostWorkers =
    kPoolBlocks - 2;  // each holds a buffer, and one that fails does not give it back

}  // namespace

std::vector<std::size_t> files_of(const Plan& plan, const RankOf& rank) {
  std::vector<std::size_t> out;
  for (std::size_t f = rank.rank; f < plan.files.size(); f += rank.ranks) out.push_back(f);
  return out;
}

namespace {

FileWindow open_source(const Plan& plan, const Schedule& schedule) {
  std::vector<std::filesystem::path> paths;
  std::vector<FileIdentity> identities;
  for (const SafetensorsFile& file : plan.source.files().files()) {
    paths.push_back(file.path());
    identities.push_back(file.identity());
  }
  return {paths, identities, schedule.num_slots, schedule.sizes.chunk};
}

class Runner {
 public:
  Runner(const Plan& plan, const std::filesystem::path& folder, const RunOptions& options, Journal& journal)
      : plan_(plan),
        folder_(folder),
        options_(options),
        journal_(journal),
        files_(files_of(plan, options.rank)),
        reflink_refused_(options.reflink ? why_no_reflinks(folder) : ""),
        reflink_(options.reflink && reflink_refused_.empty()),
        schedule_(make_schedule(plan, files_, reflink_, options.sizes)),
        window_(open_source(plan, schedule_)),
        maker_(plan, window_, schedule_) {
    outputs_.resize(plan.files.size());
    for (const std::size_t f : files_) {
      outputs_[f] = std::make_unique<BlockFile>(folder / plan.files[f].name, plan.files[f].bytes,
                                                BlockFile::Open::resume, /*reserve=*/!reflink_);
      total_bytes_ += plan.files[f].bytes;
    }
    for (std::size_t t = 0; t < schedule_.tasks.size(); ++t)
      if (!schedule_.tasks[t].is_scan) blocks_.push_back(t);
  }

  RunRecord run() {
    BlockWriter writer(kPoolBlocks, kWriterThreads, schedule_.sizes.block);
    ReadAhead ahead(window_, schedule_, kReaderThreads);
    {
      std::vector<std::jthread> workers;
      try {
        for (std::size_t i = 0; i < std::clamp<std::size_t>(options_.threads, 1, kMostWorkers); ++i)
          workers.push_back(start_thread([&] { work(writer, ahead); }));
      } catch (...) {  // those that could be started would do it all
        stop(ahead);
      }
    }
    if (error_) std::rethrow_exception(error_);
    writer.drain();
    share_repeats();
    for (const std::size_t f : files_) {
      outputs_[f]->finish();
      outputs_[f]->require_in_place();
    }
    outputs_.clear();  // closed: some file systems set the time of change only now
    for (const std::size_t f : files_)
      if (const auto there = identity_at(folder_ / plan_.files[f].name)) record_.files[f] = *there;
    window_.require_unchanged();
    record_.bytes_read = ahead.bytes_read();
    record_.hashes = maker_.take_hashes();
    record_.reflink_refused = reflink_refused_;
    return std::move(record_);
  }

 private:
  void work(BlockWriter& writer, ReadAhead& ahead) {
    try {
      std::span<std::byte> buffer = writer.acquire();
      while (true) {
        // After the buffer: who has an early block always has a buffer to finish it.
        const std::size_t t = next_task_++;
        if (t >= schedule_.tasks.size() || failed_) return writer.give_back(buffer);
        if (options_.cancelled != nullptr && *options_.cancelled) throw Interrupted();
        const Task& task = schedule_.tasks[t];
        if (task.is_scan) {
          ahead.wait_for(task);
          maker_.scan(task.scan);
          ahead.done_with(task);
          continue;
        }
        const Block& block = task.block;
        const std::uint64_t number = number_of(block);
        const bool kept = block.repeats != 0 || is_kept(block, buffer);
        if (!kept) {
          ahead.wait_for(task);
          maker_.fill(block, buffer);
        }
        ahead.done_with(task);
        const std::uint64_t hash = kept ? 0 : xxh3(buffer.first(block.bytes));
        if (!take_turn(t, block, buffer, kept)) return writer.give_back(buffer);
        if (kept) continue;
        writer.submit(buffer, block.bytes, *outputs_[block.file], block.at,
                      [this, &block, number, hash] { journal_.add(block.file, number, hash); });
        buffer = writer.acquire();
      }
    } catch (...) {
      stop(ahead);
    }
  }

  // With the exception that is being caught: whoever waits for something that will not come now is let go.
  void stop(ReadAhead& ahead) {
    {
      const std::lock_guard lock(turn_mutex_);
      if (!error_) error_ = std::current_exception();
      failed_ = true;
    }
    turn_.notify_all();
    maker_.stop();
    ahead.stop();
  }

  std::uint64_t number_of(const Block& block) const { return block.at / schedule_.sizes.block; }

  bool is_kept(const Block& block, std::span<std::byte> buffer) const {
    const std::uint64_t* hash = journal_.find(block.file, number_of(block));
    return hash != nullptr && outputs_[block.file]->read(block.at, buffer.first(block.bytes)) &&
           xxh3(buffer.first(block.bytes)) == *hash;
  }

  // In their order: what is shared may itself have been shared before.
  void share_repeats() {
    for (const std::size_t t : blocks_) {
      const Block& block = schedule_.tasks[t].block;
      if (block.repeats != 0) outputs_[block.file]->share(block.at - block.repeats, block.at, block.bytes);
    }
  }

  // Waits until all blocks before this one are hashed, and hashes it. False when the run has failed
  // meanwhile.
  bool take_turn(std::size_t task, const Block& block, std::span<const std::byte> buffer, bool kept) {
    std::unique_lock lock(turn_mutex_);
    turn_.wait(lock, [&] { return blocks_[turn_of_] == task || failed_; });
    if (failed_) return false;
    maker_.finish(block, buffer);
    done_bytes_ += block.bytes;
    (block.repeats != 0 ? record_.bytes_shared
     : kept             ? record_.bytes_kept
                        : record_.bytes_written) += block.bytes;
    if (options_.progress) options_.progress(done_bytes_, total_bytes_);
    ++turn_of_;
    turn_.notify_all();
    return true;
  }

  const Plan& plan_;
  const std::filesystem::path& folder_;
  const RunOptions& options_;
  Journal& journal_;
  const std::vector<std::size_t> files_;  // of the plan, that are ours
  const std::string reflink_refused_;
  const bool reflink_;
  const Schedule schedule_;
  FileWindow window_;
  BlockMaker maker_;
  std::vector<std::unique_ptr<BlockFile>> outputs_;  // by number in the plan
  std::uint64_t total_bytes_ = 0;
  std::vector<std::size_t> blocks_;  // the tasks that are blocks
  std::atomic<std::size_t> next_task_ = 0;

  std::mutex turn_mutex_;
  std::condition_variable turn_;
  std::size_t turn_of_ = 0;  // within blocks_; from here on guarded by turn_mutex_
  std::uint64_t done_bytes_ = 0;
  RunRecord record_;
  std::exception_ptr error_;
  std::atomic<bool> failed_ = false;
};

}  // namespace

RunRecord run_plan(const Plan& plan, const std::filesystem::path& folder, const RunOptions& options,
                   Journal& journal) {
  return Runner(plan, folder, options, journal).run();
}

}  // namespace upmoe
