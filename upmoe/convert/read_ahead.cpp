#include "upmoe/convert/read_ahead.h"

#include <algorithm>

namespace upmoe {

ReadAhead::ReadAhead(FileWindow& window, const Schedule& schedule) : window_(window), schedule_(schedule) {
  for (const Load& load : schedule.loads) loads_.emplace_back().uses_left = load.uses;
  for (std::size_t slot = schedule.num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

// In two steps, so that a thread that can't be started finds a destructor that stops those that run.
ReadAhead::ReadAhead(FileWindow& window, const Schedule& schedule, std::size_t num_threads)
    : ReadAhead(window, schedule) {
  for (std::size_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { read_until_stopped(); });
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  threads_.clear();  // joins
}

void ReadAhead::wait_for(const Task& task) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return error_ || std::ranges::all_of(task.loads, [&](std::uint32_t load) { return loads_[load].loaded; });
  });
  if (error_) std::rethrow_exception(error_);
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
  while (true) {
    // A load and its slot are taken together, so that slots go to loads in their order: no later one can hold
    // what an earlier one waits for. A chunk that is read again waits until its earlier copy is gone.
    changed_.wait(lock, [this] {
      return stop_ || next_ == loads_.size() || loads_[next_].uses_left == 0 ||
             (!free_slots_.empty() && !present_.contains(chunk(next_)));
    });
    if (stop_ || next_ == loads_.size()) return;
    const std::size_t load = next_++;
    State& state = loads_[load];
    if (state.uses_left == 0) {  // all of its tasks did without
      changed_.notify_all();
      continue;
    }
    state.slot = free_slots_.back();
    free_slots_.pop_back();
    const auto [file, number] = *present_.insert(chunk(load)).first;
    lock.unlock();
    std::exception_ptr error;
    try {
      window_.load(file, number, state.slot);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !error_) error_ = error;
    if (error) stop_ = true;
    state.loaded = true;
    bytes_read_ += std::min<std::uint64_t>(kBlockBytes, window_.bytes(file).size() - number * kBlockBytes);
    if (state.uses_left == 0) drop(load);
    changed_.notify_all();
  }
}

}  // namespace upmoe
