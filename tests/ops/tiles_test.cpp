#include "upmoe/ops/tiles.h"

#include <gtest/gtest.h>

namespace upmoe::ops {
namespace {

TEST(Cut, CoversTheRangeInPiecesThatAreMultiplesOfWhatIsAsked) {
  for (const std::int64_t of : {16, 64, 128})
    for (const std::int64_t most : {128, 512, 1024})
      for (std::int64_t size = 0; size < 1500; size += 37) {
        std::int64_t end = 0;
        for (const Range r : cut(size, most, of)) {
          EXPECT_EQ(r.begin, end);
          EXPECT_GT(r.size, 0);
          EXPECT_LE(r.size, most);
          end = r.begin + r.size;
          EXPECT_TRUE(r.size % of == 0 || end == size) << size << " " << most << " " << of;
        }
        EXPECT_EQ(end, size);
      }
}

TEST(Cut, MakesPiecesOfAboutEqualSize) {
  EXPECT_EQ(cut(1100, 1024).size(), 2U);
  EXPECT_EQ(cut(1100, 1024).front().size, 560);
  EXPECT_EQ(cut(192, 128, 64).front().size, 128);  // 96 would fill one and a half panels
}

}  // namespace
}  // namespace upmoe::ops
