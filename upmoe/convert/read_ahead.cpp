#include "upmoe/convert/read_ahead.h"

#include <algorithm>

#include "upmoe/base/error.h"
#include "upmoe/base/parallel.h"

namespace upmoe {

ReadAhead::ReadAhead(FileWindow& window, const Schedule& schedule) : window_(window), schedule_(schedule) {
  for (const Load& load : schedule.loads) loads_.emplace_back().uses_left = load.uses;
  for (std::size_t slot = schedule.num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

// In two steps, so that a thread that can't be started finds a destructor that stops those that run.
ReadAhead::ReadAhead(FileWindow& window, const Schedule& schedule, std::size_t num_threads)
    : ReadAhead(window, schedule) {
  for (std::size_t i = 0; i < num_threads; ++i)
    threads_.push_back(start_thread([this] { read_until_stopped(); }));
}

ReadAhead::~ReadAhead() {
  stop();
  threads_.clear();  // joins
}

void ReadAhead::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
}

void ReadAhead::wait_for(const Task& task) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return stop_ || error_ ||
           std::ranges::all_of(task.loads, [&](std::uint32_t load) { return loads_[load].loaded; });
  });
  if (error_) std::rethrow_exception(error_);
  require(!stop_, "stopped");
}

void ReadAhead::done_with(const Task& task) {
  {
    const std::lock_guard lock(mutex_);
    for (const std::uint32_t load : task.loads)
      if (--loads_[load].uses_left == 0 && loads_[load].loaded) drop(load);
  }
  changed_.notify_all();
}

std::pair<std::size_t, std::uint64_t> ReadAhead::chunk(std::size_t load) const {
  return {schedule_.loads[load].file, schedule_.loads[load].chunk};
}

void ReadAhead::drop(std::size_t load) {
  window_.drop(schedule_.loads[load].file, schedule_.loads[load].chunk);
  present_.erase(chunk(load));
  free_slots_.push_back(loads_[load].slot);
}

void ReadAhead::read_until_stopped() {
  std::unique_lock lock(mutex_);
  try {
    while (true) {
      // A load and its slot are taken together, so that slots go to loads in their order: no later one can
      // hold what an earlier one waits for. A chunk that is read again waits until its earlier copy is gone.
      changed_.wait(lock, [this] {
        return stop_ || next_ == loads_.size() || loads_[next_].uses_left == 0 ||
               (!free_slots_.empty() && !present_.contains(chunk(next_)));
      });
      if (stop_ || next_ == loads_.size()) return;
      read(next_++, lock);
      changed_.notify_all();
    }
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    if (!error_) error_ = std::current_exception();
    stop_ = true;
    changed_.notify_all();
  }
}

void ReadAhead::read(std::size_t load, std::unique_lock<std::mutex>& lock) {
  State& state = loads_[load];
  if (state.uses_left == 0) return;  // all of its tasks did without
  const auto [file, number] = *present_.insert(chunk(load)).first;
  state.slot = free_slots_.back();
  free_slots_.pop_back();
  lock.unlock();
  window_.load(file, number, state.slot);
  lock.lock();
  state.loaded = true;
  bytes_read_ += std::min<std::uint64_t>(window_.chunk_bytes(),
                                         window_.bytes(file).size() - number * window_.chunk_bytes());
  if (state.uses_left == 0) drop(load);
}

}  // namespace upmoe
