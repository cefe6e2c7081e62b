#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "upmoe/convert/schedule.h"
#include "upmoe/io/file_window.h"

namespace upmoe {

// Threads that carry out the loads of a schedule in their order, as far ahead as there are slots. Members are
// safe to call from any thread; tasks have to be taken in their order.
class ReadAhead {
 public:
  ReadAhead(FileWindow& window, const Schedule& schedule, std::size_t num_threads);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Waits until all that the task needs is in memory. Throws what a read has failed with, and after stop().
  void wait_for(const Task& task);
  // Once for every task, when it doesn't read any more. What nobody has waited for yet and nobody will is not
  // read.
  void done_with(const Task& task);

  // Lets everyone go who waits: the run has failed, and nobody will give slots back.
  void stop();

  std::uint64_t bytes_read() const {
    const std::lock_guard lock(mutex_);
    return bytes_read_;
  }

 private:
  struct State {
    std::size_t slot = 0;
    std::uint32_t uses_left = 0;
    bool loaded = false;
  };
  explicit ReadAhead(FileWindow& window, const Schedule& schedule);
  void read_until_stopped();
  void read(std::size_t load, std::unique_lock<std::mutex>& lock);
  std::pair<std::size_t, std::uint64_t> chunk(std::size_t load) const;
  void drop(std::size_t load);  // with the mutex held

  FileWindow& window_;
  const Schedule& schedule_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<State> loads_;
  std::size_t next_ = 0;
  std::vector<std::size_t> free_slots_;
  std::set<std::pair<std::size_t, std::uint64_t>> present_;  // chunks that have a slot
  std::uint64_t bytes_read_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;
};

}  // namespace upmoe
