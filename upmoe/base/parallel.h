#pragma once
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace upmoe {

// work(i) for i = 0 .. count-1 on some threads, in any order: each i must be independent of the others, so
// that the result does not depend on how many threads there are. Rethrows the first exception after all
// threads have stopped.
inline void parallel_for(std::size_t count, std::size_t threads,
                         const std::function<void(std::size_t i)>& work) {
  std::atomic<std::size_t> next = 0;
  std::exception_ptr error;
  std::mutex mutex;
  const auto loop = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::size_t t = 1; t < threads && t < count; ++t) others.emplace_back(loop);
    loop();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace upmoe
