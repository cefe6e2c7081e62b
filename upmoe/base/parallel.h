#pragma once
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "upmoe/base/error.h"

namespace upmoe {

// A thread, or an Error that says why there can't be one.
template <class Work>
std::jthread start_thread(Work work) {
  try {
    return std::jthread(std::move(work));
  } catch (const std::system_error& error) {
    fail("cannot start a thread: {}: out of memory (ulimit -v), or too many threads (ulimit -u)",
         error.code().message());
  }
}

// work(i) for i = 0 .. count-1 on some threads, in any order: each i must be independent of the others, so
// that the result does not depend on how many threads there are. Rethrows the first exception after all
// threads have stopped.
inline void parallel_for(std::size_t count, std::size_t threads,
                         const std::function<void(std::size_t i)>& work) {
  std::atomic<std::size_t> next = 0;
  std::exception_ptr error;
  std::mutex mutex;
  const auto stop = [&] {  // with the exception that is being caught
    const std::lock_guard lock(mutex);
    if (!error) error = std::current_exception();
    next = count;
  };
  const auto loop = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      stop();
    }
  };
  {
    std::vector<std::jthread> others;
    try {
      for (std::size_t t = 1; t < threads && t < count; ++t) others.push_back(start_thread(loop));
    } catch (...) {
      stop();
    }
    loop();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace upmoe
