// The numbers of tests/reference/ come from transformers (dump.py there has the versions and how).
#include <gtest/gtest.h>

#include "tests/model/models.h"
#include "tests/model/probe.h"

namespace upmoe::model {
namespace {

// As in tests/python/test_model.py: of float32 sums in another order, relative to a tensor's largest number.
constexpr double kTolerance = 1e-5;

class Reference : public testing::TestWithParam<const char*> {};

TEST_P(Reference, LogitsLossAndEveryGradientAreTransformers) {
  const auto folder = std::filesystem::path(UPMOE_TEST_REFERENCE) / GetParam();
  const test::NamedTensors given = test::read_tensors(folder / "expected.safetensors"),
                           found = test::run_probe(folder, given);
  std::size_t compared = 0;
  for (const auto& [name, wanted] : given) {
    if (wanted.scalar_type() == at::kLong) continue;  // what goes in
    ASSERT_TRUE(found.contains(name)) << name;
    ASSERT_EQ(found.at(name).sizes(), wanted.sizes()) << name;
    EXPECT_LE(test::relative_difference(found.at(name), wanted), kTolerance) << name;
    ++compared;
  }
  EXPECT_EQ(compared, found.size());
}

INSTANTIATE_TEST_SUITE_P(All, Reference, testing::Values("llama", "mistral", "mixtral"),
                         [](const auto& each) { return each.param; });

}  // namespace
}  // namespace upmoe::model
