#include "upmoe/convert/read_ahead.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

// Whether that thread of ours waits for something.
bool sleeps(pid_t number) {
  std::ifstream file("/proc/self/task/" + std::to_string(number) + "/stat");
  std::string stat;
  std::getline(file, stat);
  const std::size_t end = stat.rfind(')');
  return end != std::string::npos && stat.substr(end + 2, 1) == "S";
}

// The first of two tasks keeps the only slot.
TEST(ReadAhead, LetsWhoeverWaitsGoWhenTheRunHasFailed) {
  const test::TempFolder folder;
  const auto path = test::write_file(folder / "f", std::string(2 * kBlockBytes, 'x'));
  FileWindow window({path}, {identity_of(open_regular_file(path), path)}, 1);
  Schedule schedule{.num_slots = 1, .loads = {{0, 0, 1}, {0, 1, 1}}};
  schedule.tasks.resize(2);
  schedule.tasks[0].loads = {0};
  schedule.tasks[1].loads = {1};
  ::alarm(100);
  for (const bool waits_first : {true, false}) {
    ReadAhead ahead(window, schedule, 2);
    ahead.wait_for(schedule.tasks[0]);
    const auto wait = [&] {
      EXPECT_TRUE(test::fails_with([&] { ahead.wait_for(schedule.tasks[1]); }, {"stopped"})) << waits_first;
    };
    if (!waits_first) {
      ahead.stop();
      wait();
      continue;
    }
    std::atomic<pid_t> number = 0;
    std::jthread other([&] {
      number = ::gettid();
      wait();
    });
    while (number == 0) std::this_thread::yield();
    while (!sleeps(number)) std::this_thread::yield();
    ahead.stop();
    other.join();
  }
  ::alarm(0);
}

}  // namespace
}  // namespace upmoe
