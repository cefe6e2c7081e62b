#include "upmoe/cli/progress_bar.h"

#include <gtest/gtest.h>

namespace upmoe::cli {
namespace {

constexpr const char* kText = " 50 %  1 of 2";

TEST(ProgressLine, IsNeverWiderThanItsColumns) {
  for (std::size_t columns = 1; columns < 100; ++columns)
    for (const double share : {0.0, 0.5, 1.0})
      EXPECT_LE(progress_line("writing", share, kText, columns).size(), columns);
}

TEST(ProgressLine, HasABarWhereThereIsRoom) {
  EXPECT_EQ(progress_line("writing", 0.5, kText, 100), "writing [############            ]  50 %  1 of 2");
  EXPECT_EQ(progress_line("writing", 0.5, kText, 32), "writing [####    ]  50 %  1 of 2");
  EXPECT_EQ(progress_line("writing", 0.5, kText, 24), "writing  50 %  1 of 2");
  EXPECT_EQ(progress_line("writing", 0.5, kText, 13), "writing  50 %");
}

}  // namespace
}  // namespace upmoe::cli
