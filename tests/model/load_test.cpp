#include "upmoe/model/load.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <set>

#include "tests/fails_with.h"
#include "tests/model/models.h"

namespace upmoe::model {
namespace {

namespace fs = std::filesystem;
using test::fails_with;
using test::TempFolder;

// Addresses where the process has files of this folder mapped.
bool lies_in_a_file_of(const fs::path& folder, const void* place) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(place);
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2 && begin <= wanted && wanted < end)
      return line.find(folder.string()) != std::string::npos;
  }
  return false;
}

std::vector<test::Tensor> without(std::vector<test::Tensor> tensors, const std::string& name) {
  std::erase_if(tensors, [&](const test::Tensor& one) { return one.name == name; });
  return tensors;
}

class Load : public testing::TestWithParam<std::int64_t> {  // experts
 protected:
  Load() : place_(test::make_tiny_model(folder_.path(), {}, GetParam())) {}
  // The tensors of the checkpoint, to be spoilt and written back.
  std::vector<test::Tensor> tensors() const {
    const SafetensorsFile file(place_ / "model.safetensors");
    std::vector<test::Tensor> out;
    for (const TensorInfo& info : file.tensors()) {
      const auto data = file.data(info);
      out.push_back({info.name, info.dtype, info.shape, {data.begin(), data.end()}});
    }
    return out;
  }
  void write(const std::vector<test::Tensor>& tensors) const { test::write_weights(place_, tensors); }

  TempFolder folder_;
  fs::path place_;
};

TEST_P(Load, LeavesTheWeightsInTheMappedFile) {
  Model model = load(place_);
  std::set<std::string> names;
  for (const auto& [name, value] : named_weights(model)) {
    EXPECT_TRUE(lies_in_a_file_of(place_, value->const_data_ptr())) << name;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_EQ(names.size(), tensors().size());
}

TEST_P(Load, KeepsTheFileOpenAsLongAsAWeightIsHeld) {
  at::Tensor held, copy;
  {
    const Model model = load(place_);
    held = model.norm_H;
    copy = held.clone();
  }
  EXPECT_TRUE(lies_in_a_file_of(place_, held.const_data_ptr()));
  EXPECT_TRUE(at::equal(held, copy));
}

TEST_P(Load, BringsTheWeightsToTheDtypeAskedFor) {
  Model model = load(place_, {.dtype = at::kBFloat16});
  EXPECT_EQ(model.compute, at::kBFloat16);
  Model plain = load(place_);
  const auto wanted = named_weights(plain), found = named_weights(model);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    EXPECT_TRUE(at::equal(*found[i].value, wanted[i].value->to(at::kBFloat16))) << wanted[i].name;
}

TEST_P(Load, RefusesAMissingWeight) {
  for (const std::string name : {"model.norm.weight", "model.layers.1.self_attn.k_proj.weight"}) {
    const auto before = tensors();
    write(without(before, name));
    EXPECT_TRUE(fails_with([&] { load(place_); }, {name, "missing"}));
    write(before);
  }
}

TEST_P(Load, RefusesAnotherShape) {
  auto changed = tensors();
  for (test::Tensor& one : changed)
    if (one.name == "model.layers.0.self_attn.q_proj.weight")
      std::swap(one.shape[0], one.shape[1]), one.shape = {16, 64};
  write(changed);
  EXPECT_TRUE(
      fails_with([&] { load(place_); }, {"model.layers.0.self_attn.q_proj.weight", "[16, 64]", "[32, 32]"}));
}

TEST_P(Load, RefusesAWeightThatItDoesNotKnow) {
  auto more = tensors();
  more.push_back({"model.layers.0.self_attn.q_norm.weight", Dtype::f32, {1}, std::vector<std::byte>(4)});
  write(more);
  EXPECT_TRUE(fails_with([&] { load(place_); }, {"model.layers.0.self_attn.q_norm.weight"}));
}

INSTANTIATE_TEST_SUITE_P(DenseAndMoe, Load, testing::Values(0, 4),
                         [](const auto& each) { return each.param == 0 ? "dense" : "experts"; });

class LoadStacked : public testing::Test {
 protected:
  // Names and tensors as transformers 5 holds them: gate_up [E, 2F, H] and down [E, H, F].
  LoadStacked() : place_(test::make_tiny_model(folder_.path(), {}, 4)) {
    Model single = load(place_);
    for (const auto& [name, value] : named_weights(single)) weights_[name] = value->clone();
    for (const auto& [name, value] : weights_)
      if (name.find("block_sparse_moe") == std::string::npos) add(name, value);
    for (std::int64_t l = 0; l < 2; ++l) {
      const std::string old = fmt::format("model.layers.{}.block_sparse_moe.", l),
                        now = fmt::format("model.layers.{}.mlp.", l);
      add(now + "gate.weight", weights_.at(old + "gate.weight"));
      std::vector<at::Tensor> gate_up, down;
      for (std::int64_t e = 0; e < 4; ++e) {
        const std::string expert = fmt::format("{}experts.{}.", old, e);
        gate_up.push_back(at::cat({weights_.at(expert + "w1.weight"), weights_.at(expert + "w3.weight")}));
        down.push_back(weights_.at(expert + "w2.weight"));
      }
      add(now + "experts.gate_up_proj", at::stack(gate_up));
      add(now + "experts.down_proj", at::stack(down));
    }
    test::write_weights(place_, stacked_);
  }
  void add(const std::string& name, const at::Tensor& value) {
    const auto* data = static_cast<const std::byte*>(value.const_data_ptr());
    stacked_.push_back({name,
                        Dtype::f32,
                        value.sizes().vec(),
                        {data, data + value.numel() * static_cast<std::int64_t>(sizeof(float))}});
  }

  TempFolder folder_;
  fs::path place_;
  std::map<std::string, at::Tensor> weights_;
  std::vector<test::Tensor> stacked_;
};

TEST_F(LoadStacked, GivesTheExpertsByTheirSingleNamesAndCopiesNothing) {
  Model model = load(place_);
  const auto named = named_weights(model);
  EXPECT_EQ(named.size(), weights_.size());
  for (const auto& [name, value] : named) {
    EXPECT_TRUE(at::equal(*value, weights_.at(name))) << name;
    EXPECT_TRUE(lies_in_a_file_of(place_, value->const_data_ptr())) << name;
  }
}

// As many as would take gigabytes to make room for.
class LoadAbsurd : public testing::TestWithParam<std::string> {};

TEST_P(LoadAbsurd, IsRefusedByTheNumberOfWeights) {
  const TempFolder folder;
  const fs::path place = test::make_tiny_model(folder.path(), {}, 4);
  std::ifstream file(place / "config.json");
  std::string config{std::istreambuf_iterator<char>(file), {}};
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"num_local_experts", "4"}, {"num_hidden_layers", "2"}})
    if (GetParam().find(key) != std::string::npos)
      config.replace(config.find('"' + key + "\": " + value), key.size() + 4 + value.size(), GetParam());
  std::ofstream(place / "config.json") << config;
  EXPECT_TRUE(fails_with([&] { load(place); }, {"layers", "experts"}));
}

INSTANTIATE_TEST_SUITE_P(All, LoadAbsurd,
                         testing::Values(R"("num_local_experts": 100000)", R"("num_local_experts": 20000)",
                                         R"("num_hidden_layers": 10000)"),
                         [](const auto& each) { return "case" + std::to_string(each.index); });

TEST_F(LoadStacked, RefusesAMissingMatrix) {
  test::write_weights(place_, without(stacked_, "model.layers.1.mlp.experts.down_proj"));
  EXPECT_TRUE(fails_with([&] { load(place_); }, {"model.layers.1.mlp.experts.down_proj", "missing"}));
}

}  // namespace
}  // namespace upmoe::model
