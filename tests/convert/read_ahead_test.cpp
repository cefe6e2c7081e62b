#include "upmoe/convert/read_ahead.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

// The first of two tasks keeps the only slot.
TEST(ReadAhead, LetsWhoeverWaitsGoWhenTheRunHasFailed) {
  const test::TempFolder folder;
  const auto path = test::write_file(folder / "f", std::string(2 * kBlockBytes, 'x'));
  FileWindow window({path}, {identity_of(open_regular_file(path), path)}, 1);
  Schedule schedule{.num_slots = 1, .loads = {{0, 0, 1}, {0, 1, 1}}};
  schedule.tasks.resize(2);
  schedule.tasks[0].loads = {0};
  schedule.tasks[1].loads = {1};
  ReadAhead ahead(window, schedule, 2);
  ahead.wait_for(schedule.tasks[0]);
  ::alarm(100);
  std::jthread other(
      [&] { EXPECT_TRUE(test::fails_with([&] { ahead.wait_for(schedule.tasks[1]); }, {"stopped"})); });
  ahead.stop();
  other.join();
  ::alarm(0);
}

}  // namespace
}  // namespace upmoe
