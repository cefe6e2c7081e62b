#include "upmoe/base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace upmoe {
namespace {

TEST(ParallelFor, DoesEachOnceForAnyNumberOfThreads) {
  for (const std::size_t threads : {0, 1, 2, 3, 16, 100}) {
    for (const std::size_t count : {0, 1, 2, 99, 1000}) {
      std::vector<std::atomic<int>> done(count);
      parallel_for(count, threads, [&](std::size_t i) { ++done[i]; });
      for (std::size_t i = 0; i < count; ++i)
        ASSERT_EQ(done[i], 1) << i << " of " << count << ", " << threads << " threads";
    }
  }
}

TEST(ParallelFor, StartsNoMoreThreadsThanThereIsWork) {
  std::mutex mutex;
  std::vector<std::thread::id> seen;
  parallel_for(2, 50, [&](std::size_t) {
    const std::lock_guard lock(mutex);
    seen.push_back(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 2u);
}

TEST(ParallelFor, RethrowsWhatTheWorkThrows) {
  for (const std::size_t threads : {1, 4}) {
    std::atomic<int> done = 0;
    const auto work = [&](std::size_t i) {
      if (i == 10) throw std::runtime_error("number ten");
      ++done;
    };
    try {
      parallel_for(1'000'000, threads, work);
      FAIL() << "nothing thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "number ten");
    }
    EXPECT_GE(done, threads == 1 ? 10 : 0);
  }
}

TEST(ParallelFor, StopsAfterAnException) {
  std::atomic<int> done = 0;
  EXPECT_THROW(parallel_for(1'000'000'000, 1,
                            [&](std::size_t i) {
                              if (i == 3) throw std::runtime_error("three");
                              ++done;
                            }),
               std::runtime_error);
  EXPECT_EQ(done, 3);
}

TEST(ParallelFor, ThrowsOnceWhenEveryThreadThrows) {
  EXPECT_THROW(parallel_for(64, 8, [](std::size_t) { throw std::runtime_error("all"); }), std::runtime_error);
}

}  // namespace
}  // namespace upmoe
