#include "upmoe/convert/plan.h"

#include <gtest/gtest.h>

#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/base/error.h"

namespace upmoe {
namespace {

class PlanTest : public testing::Test {
 protected:
  ConvertRequest request(const test::TinyOptions& tiny = {}) {
    ConvertRequest out;
    out.source = (folder_.path() / "dense").string();
    out.folder = out.source;
    test::make_tiny_llama(out.folder, tiny);
    out.experts = 4;
    return out;
  }
  static std::string message(const ConvertRequest& request) {
    try {
      make_plan(request);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  test::TempFolder folder_;
};

TEST_F(PlanTest, CountsParametersBytesAndActiveParameters) {
  const ConvertRequest asked = request();
  const Plan plan = make_plan(asked);
  const DenseConfig& c = plan.source.config();
  const auto ffn = static_cast<std::uint64_t>(3 * c.hidden_size * c.intermediate_size * c.num_layers);
  const auto routers = static_cast<std::uint64_t>(4 * c.hidden_size * c.num_layers);
  EXPECT_EQ(plan.parameters, plan.source.parameters() + 3 * ffn + routers);
  EXPECT_EQ(plan.active_parameters, plan.source.parameters() + ffn + routers);
}

TEST_F(PlanTest, ForecastsTheMemoryOfSideFilesAndRouters) {
  ConvertRequest asked = request();
  const std::uint64_t before = make_plan(asked).peak_memory;
  test::write_file(asked.folder / "LICENSE", std::string(5'000'000, 'x'));
  EXPECT_EQ(make_plan(asked).peak_memory, before + 5'000'000);
  asked.experts = 4096;
  const Plan many = make_plan(asked);
  const auto routers = static_cast<std::uint64_t>(4096 * 4 * many.source.config().hidden_size *
                                                  many.source.config().num_layers);
  EXPECT_GE(many.peak_memory, before + 5'000'000 + routers / 2);
}

TEST_F(PlanTest, NamesEveryTensorOnceAndLaysThemEndToEnd) {
  ConvertRequest asked = request();
  asked.max_shard_bytes = 30'000;
  const Plan plan = make_plan(asked);
  std::set<std::string> names;
  std::uint64_t data = 0;
  for (const PlannedFile& file : plan.files) {
    std::uint64_t at = 0;
    for (const PlannedTensor& tensor : file.tensors) {
      EXPECT_EQ(tensor.info.begin, at);
      at = tensor.info.end;
      EXPECT_TRUE(names.insert(tensor.info.name).second) << tensor.info.name;
    }
    EXPECT_EQ(file.bytes, file.header.size() + at);
    EXPECT_TRUE(at <= asked.max_shard_bytes || file.tensors.size() == 1);
    data += at;
  }
  EXPECT_EQ(data, plan.data_bytes);
}

TEST_F(PlanTest, SaysWhetherTheFunctionStays) {
  ConvertRequest asked = request();
  asked.method = "copy";
  EXPECT_EQ(make_plan(asked).not_exact_because, "");
  asked.method = "drop";
  EXPECT_NE(make_plan(asked).not_exact_because, "");
  asked.method_options = {{"ratio", "0"}};
  EXPECT_EQ(make_plan(asked).not_exact_because, "");
}

TEST_F(PlanTest, RefusesShapesThatCannotBe) {
  ConvertRequest asked = request();
  for (const auto& [experts, per_token] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {-1, 1}, {4, 5}, {4, 0}, {1'000'000, 2}}) {
    asked.experts = experts;
    asked.per_token = per_token;
    EXPECT_THROW(make_plan(asked), UsageError) << experts << " " << per_token;
  }
}

TEST_F(PlanTest, GivesAMethodThatSplitsAsManyParametersAsTheDenseModelHas) {
  ConvertRequest asked = request({.ffn = 48});
  asked.method = "split";
  const Plan plan = make_plan(asked);
  const DenseConfig& c = plan.source.config();
  EXPECT_EQ(plan.shape.expert_size, 12);
  EXPECT_EQ(plan.parameters,
            plan.source.parameters() + static_cast<std::uint64_t>(4 * c.hidden_size * c.num_layers));
  asked.experts = 5;
  EXPECT_NE(message(asked).find("5 experts can't share 48 neurons equally"), std::string::npos)
      << message(asked);
  asked.experts = 0;
  EXPECT_NE(message(asked).find("--experts is 0"), std::string::npos) << message(asked);
}

TEST_F(PlanTest, RefusesTheZeroRouterUnlessItIsAllowed) {
  ConvertRequest asked = request();
  asked.router_init = "zero";
  EXPECT_NE(message(asked).find("--allow router-init"), std::string::npos) << message(asked);
  asked.replace = true;  // has nothing to do with it
  asked.allow = {"not-finite"};
  EXPECT_NE(message(asked).find("--allow router-init"), std::string::npos) << message(asked);
  asked.allow = {"router-init"};
  EXPECT_EQ(message(asked), "");
}

TEST_F(PlanTest, AnswersAnUnknownAllowanceWithThoseThereAre) {
  ConvertRequest asked = request();
  asked.allow = {"router-intit"};
  EXPECT_NE(message(asked).find("'router-intit'"), std::string::npos) << message(asked);
  EXPECT_NE(message(asked).find("router-init, not-finite; did you mean 'router-init'?"), std::string::npos);
}

TEST_F(PlanTest, AnswersUnknownNamesWithWhatThereIs) {
  ConvertRequest asked = request();
  asked.method = "dorp";
  EXPECT_NE(message(asked).find("did you mean 'drop'"), std::string::npos);
  asked = request();
  asked.target = "mixtrall";
  EXPECT_NE(message(asked).find("did you mean 'mixtral'"), std::string::npos);
  asked = request();
  asked.router_init = "ato";
  EXPECT_NE(message(asked).find("did you mean 'auto'"), std::string::npos);
}

}  // namespace
}  // namespace upmoe
