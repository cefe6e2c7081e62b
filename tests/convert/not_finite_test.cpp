// NaN and Inf in the source: refused by name and place, whatever the weight is made into.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/base/error.h"
#include "upmoe/convert/convert.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using test::fails_with;

constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

class NotFinite : public testing::Test {
 protected:
  // A tiny model in which element `at` of a tensor is `value`; gives the tensor's shape.
  std::vector<std::int64_t> make_source(const std::string& name, std::size_t at, float value,
                                        const test::TinyOptions& options = {}) {
    std::vector<test::Tensor> tensors = test::tiny_tensors(options);
    test::Tensor& tensor = *std::ranges::find(tensors, name, &test::Tensor::name);
    const auto size = static_cast<std::size_t>(bits(tensor.dtype)) / 8;
    from_float(std::span(&value, 1), tensor.dtype, std::span(tensor.data).subspan(at * size, size));
    test::write_file(folder_ / "dense" / "config.json", test::tiny_config(options));
    test::write_weights(folder_ / "dense", tensors);
    return tensor.shape;
  }
  ConvertRequest request(const std::string& method = "drop") const {
    ConvertRequest out;
    out.folder = folder_ / "dense";
    out.source = out.folder.string();
    out.method = method;
    out.experts = 4;
    return out;
  }
  void make(const ConvertRequest& request, const RunOptions& options = {.threads = 2}) const {
    convert(make_plan(request), folder_ / "out", options);
  }

  test::TempFolder folder_;
};

class EveryReader : public NotFinite, public testing::WithParamInterface<std::string> {};

std::vector<std::string> methods_that_read() {
  std::vector<std::string> out;
  for (const MethodInfo& method : upcycle::methods())
    if (method.make({})->reads().weights) out.push_back(method.name);
  return out;
}

TEST_P(EveryReader, NamesTheTensorAndThePlaceInEveryKindOfWeightAndDtype) {
  const std::vector<float> kinds = {kNan, kInf, -kInf};
  std::size_t turn = 0;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    for (const test::Tensor& tensor : test::tiny_tensors({.dtype = dtype})) {
      const float value = kinds[turn++ % kinds.size()];
      const std::size_t at = tensor.shape[0] - 1;
      const std::vector<std::int64_t> shape = make_source(tensor.name, at, value, {.dtype = dtype});
      const std::string what = std::isnan(value) ? "NaN" : value > 0 ? "Inf" : "-Inf";
      const std::string place = shape.size() == 1 ? fmt::format("{} at {};", what, at)
                                                  : fmt::format("{} at row {}, column {};", what,
                                                                at / static_cast<std::size_t>(shape[1]),
                                                                at % static_cast<std::size_t>(shape[1]));
      EXPECT_TRUE(fails_with([&] { make(request(GetParam())); },
                             {"model.safetensors: '" + tensor.name + "' has ",
                              place.substr(0, place.size() - 1), "--allow not-finite"}));
      EXPECT_EQ(folder_.names(), std::vector<std::string>{"dense"});
    }
}

TEST_P(EveryReader, MakesItAllTheSameWhereThatIsAllowed) {
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight",
                           "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"}) {
    make_source(name, 5, kNan);
    ConvertRequest allowed = request(GetParam());
    allowed.allow = {"not-finite"};
    make(allowed);
    EXPECT_TRUE(fs::exists(folder_ / "out" / "model.safetensors")) << name;
    fs::remove_all(folder_ / "out");
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryReader, testing::ValuesIn(methods_that_read()),
                         [](const auto& each) { return each.param; });

TEST_F(NotFinite, DoesNotMatterWhereItIsNotRead) {
  make_source("model.layers.0.mlp.down_proj.weight", 5, kNan);
  make(request("scratch"));
  EXPECT_TRUE(fs::exists(folder_ / "out" / "model.safetensors"));
}

TEST_F(NotFinite, IsFoundInTheLastElementOfTensorsOfManyBlocks) {
  const test::TinyOptions large{.layers = 1, .hidden = 512, .ffn = 4096, .vocab = 6000, .dtype = Dtype::f32};
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight",
                           "model.layers.0.mlp.down_proj.weight"}) {
    const bool embedding = std::string(name).find("embed") != std::string::npos;
    const std::size_t last = (embedding ? 6000 : 4096) * 512 - 1;
    const std::vector<std::int64_t> shape = make_source(name, last, kNan, large);
    EXPECT_TRUE(fails_with([&] { make(request()); },
                           {name, fmt::format("row {}, column {}", shape[0] - 1, shape[1] - 1)}));
  }
}

TEST_F(NotFinite, IsFoundInAHeadThatWasTied) {
  make_source("model.embed_tokens.weight", 7, kInf, {.tied = true});
  EXPECT_TRUE(fails_with([&] { make(request()); }, {"model.embed_tokens.weight", "Inf at row 0, column 7"}));
}

TEST_F(NotFinite, IsFoundAgainByARunThatGoesOn) {
  const test::TinyOptions large{.layers = 1, .hidden = 512, .ffn = 4096, .vocab = 6000, .dtype = Dtype::f32};
  make_source("model.norm.weight", 3, kNan, large);
  for (int time = 0; time < 2; ++time)
    EXPECT_TRUE(fails_with([&] { make(request(), {.threads = 1, .resume = true}); },
                           {"'model.norm.weight'", "NaN at 3"}));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(NotFinite, StopsTheRankThatReadsItSoThatTheOutputIsNeverWhole) {
  make_source("model.norm.weight", 3, kNan);
  ConvertRequest shards = request();
  shards.max_shard_bytes = 20'000;
  int failed = 0;
  for (const std::size_t rank : {0, 1, 0, 1}) try {
      make(shards, {.threads = 1, .rank = {rank, 2}});
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("'model.norm.weight' has NaN at 3"), std::string::npos)
          << error.what();
      ++failed;
    }
  EXPECT_EQ(failed, 2);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(NotFinite, IsNothingThatIsMadeOfFiniteWeights) {
  for (const auto& [dtype, large] :
       {std::pair{Dtype::f16, 6e4f}, {Dtype::bf16, 3e38f}, {Dtype::f32, 3e38f}}) {
    std::vector<test::Tensor> tensors = test::tiny_tensors({.dtype = dtype});
    for (test::Tensor& tensor : tensors)
      if (tensor.name.find("down_proj") != std::string::npos) {
        std::vector<float> x(static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]));
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = (i + i / 48) % 2 == 0 ? large : -large;
        from_float(x, dtype, tensor.data);
      }
    test::write_file(folder_ / "dense" / "config.json", test::tiny_config({.dtype = dtype}));
    test::write_weights(folder_ / "dense", tensors);
    for (const char* method : {"drop", "noise", "split"}) {
      ConvertRequest wide = request(method);
      if (wide.method == "noise") wide.method_options = {{"scale", "relative"}, {"sigma", "1"}};
      EXPECT_TRUE(fails_with([&] { make(wide); }, {"block_sparse_moe.experts.", "down_proj.weight", "Inf",
                                                   name(dtype), "can hold"}))
          << method;
    }
    make(request("copy"));
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(NotFinite, IsNoRouterThatFollowsFromATinyNorm) {
  std::vector<test::Tensor> tensors = test::tiny_tensors({.dtype = Dtype::f32});
  for (test::Tensor& tensor : tensors)
    if (tensor.name.find("post_attention_layernorm") != std::string::npos)
      from_float(std::vector<float>(32, 1e-42f), Dtype::f32, tensor.data);
  test::write_file(folder_ / "dense" / "config.json", test::tiny_config({.dtype = Dtype::f32}));
  test::write_weights(folder_ / "dense", tensors);
  EXPECT_TRUE(
      fails_with([&] { make(request()); }, {"router initialisation 'auto'", "another --router-init"}));
  ConvertRequest uniform = request();
  uniform.router_init = "uniform";
  make(uniform);
}

TEST_F(NotFinite, IsNotCalledANormOfZeros) {
  make_source("model.layers.1.post_attention_layernorm.weight", 3, kNan);
  ConvertRequest allowed = request();
  allowed.allow = {"not-finite"};
  EXPECT_TRUE(fails_with([&] { make(allowed); },
                         {"router initialisation 'auto'", "length nan", "another --router-init"}));
}

}  // namespace
}  // namespace upmoe
