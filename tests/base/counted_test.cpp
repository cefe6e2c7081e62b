#include "upmoe/base/counted.h"

#include <gtest/gtest.h>

namespace upmoe {
namespace {

TEST(Counted, HasAPluralUnlessThereIsOne) {
  EXPECT_EQ(counted(1, "layer"), "1 layer");
  EXPECT_EQ(counted(0, "layer"), "0 layers");
  EXPECT_EQ(counted(30, "layer"), "30 layers");
}

}  // namespace
}  // namespace upmoe
