// What every upcycling method promises. A new method is enrolled by its registry line.
// F: neurons, H: hidden size. gate_FH, up_FH, down_HF.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "tests/option_faults.h"
#include "upmoe/random/normal.h"
#include "upmoe/tensor/convert.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {

inline void PrintTo(const MethodInfo& method, std::ostream* out) { *out << method.name; }

namespace {

constexpr std::int64_t F = 24, H = 10, kExperts = 4;

// A dense FFN with weights of our own, as a method sees it.
class Dense {
 public:
  Dense() {
    config_.hidden_size = H;
    config_.intermediate_size = F;
    config_.initializer_range = 0.02;
    for (const Matrix matrix : kMatrices) {
      std::vector<float> weights(F * H);
      normals(Rng(1).at(matrix_name(matrix)), 0, 0.01f, 0.05f, weights);
      std::vector<std::byte> bytes(weights.size() * 2);
      from_float(weights, Dtype::bf16, bytes);
      moments_.push_back(NeuronMoments::of(matrix, Dtype::bf16, bytes, F, H));
    }
  }
  DenseLayer layer() const {
    return {3, config_,
            [this](Matrix m) -> const NeuronMoments& { return moments_[static_cast<std::size_t>(m)]; }};
  }
  const DenseConfig& config() const { return config_; }

 private:
  DenseConfig config_;
  std::vector<NeuronMoments> moments_;
};

const MoeShape kAsked{.experts = kExperts, .per_token = 2};
const MoeShape kShape{.experts = kExperts, .per_token = 2, .expert_size = F};  // of most methods

// All that a draft says, as text.
std::string told(const Draft& draft) {
  const auto draw = [](const Draw& d) {
    return fmt::format("{:x} {:x} {:a} {:a}", d.key.seed(), d.key.stream(), d.mean, d.sigma);
  };
  struct Teller {
    decltype(draw)& of;
    std::string operator()(const Copy&) const { return "copy"; }
    std::string operator()(const Constant& c) const { return fmt::format("constant {:a}", c.value); }
    std::string operator()(const Draw& d) const { return "draw " + of(d); }
    std::string operator()(const Redraw& r) const {
      return fmt::format("redraw {} {}", fmt::join(r.neurons, ","), of(r.draw));
    }
    std::string operator()(const Disturb& d) const {
      return fmt::format("disturb {} {}", fmt::join(d.neurons, ","), of(d.draw));
    }
    std::string operator()(const Pick& p) const {
      return fmt::format("pick {} {:a}", fmt::join(p.neurons, ","), p.scale);
    }
  };
  return std::visit(Teller{draw}, draft);
}

// Every draft of a layer, by the order of experts and matrices, made in some order of calls.
std::vector<std::string> drafts(const MoeLayer& layer, bool backwards) {
  std::vector<std::string> out(kExperts * 3);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t at = backwards ? out.size() - 1 - i : i;
    out[at] = told(layer.draft(static_cast<std::int64_t>(at / 3), kMatrices[at % 3]));
  }
  return out;
}

class EveryMethod : public testing::TestWithParam<MethodInfo> {};

TEST_P(EveryMethod, GivesTheSameDraftsInAnyOrder) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  EXPECT_EQ(drafts(method->convert(layer, method->shape(kAsked, dense.config()), Rng(7)), false),
            drafts(method->convert(layer, method->shape(kAsked, dense.config()), Rng(7)), true));
}

TEST_P(EveryMethod, GivesTheSameDraftsFromManyThreads) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, method->shape(kAsked, dense.config()), Rng(7));
  std::vector<std::vector<std::string>> found(8);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < found.size(); ++t)
      threads.emplace_back([&, t] { found[t] = drafts(moe, t % 2 == 1); });
  }
  for (const auto& one : found) EXPECT_EQ(one, found[0]);
}

TEST_P(EveryMethod, ChangesNeuronsInAscendingOrderAndWithinTheExpert) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeShape shape = method->shape(kAsked, dense.config());
  const MoeLayer moe = method->convert(layer, shape, Rng(7));
  for (std::int64_t e = 0; e < kExperts; ++e)
    for (const Matrix matrix : kMatrices) {
      const Draft draft = moe.draft(e, matrix);
      const std::vector<std::int32_t>* neurons = nullptr;
      if (const auto* redraw = std::get_if<Redraw>(&draft)) neurons = &redraw->neurons;
      if (const auto* disturb = std::get_if<Disturb>(&draft)) neurons = &disturb->neurons;
      if (neurons == nullptr) continue;
      for (std::size_t i = 0; i < neurons->size(); ++i) {
        EXPECT_LT(i == 0 ? -1 : (*neurons)[i - 1], (*neurons)[i]);
        EXPECT_LT((*neurons)[i], shape.expert_size);
      }
    }
}

TEST_P(EveryMethod, FillsItsExpertsWithNeuronsThatThereAre) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeShape shape = method->shape(kAsked, dense.config());
  EXPECT_EQ(shape.experts, kExperts);
  EXPECT_EQ(shape.per_token, 2);
  EXPECT_GE(shape.expert_size, 1);
  const MoeLayer moe = method->convert(layer, shape, Rng(7));
  for (std::int64_t e = 0; e < kExperts; ++e)
    for (const Matrix matrix : kMatrices) {
      const Draft draft = moe.draft(e, matrix);
      if (const auto* pick = std::get_if<Pick>(&draft)) {
        EXPECT_EQ(static_cast<std::int64_t>(pick->neurons.size()), shape.expert_size);
        for (const std::int32_t neuron : pick->neurons) EXPECT_TRUE(0 <= neuron && neuron < F) << neuron;
        EXPECT_TRUE(std::isfinite(pick->scale));
      } else if (!std::holds_alternative<Draw>(draft) && !std::holds_alternative<Constant>(draft)) {
        EXPECT_EQ(shape.expert_size, F) << "a copy has as many neurons as the dense FFN";
      }
    }
}

TEST_P(EveryMethod, ReadsNoMoreThanItSays) {
  const Dense dense;
  DenseLayer layer = dense.layer();
  std::atomic<bool> asked = false;
  layer.moments = [&asked, all = dense.layer().moments](Matrix matrix) -> const NeuronMoments& {
    asked = true;
    return all(matrix);
  };
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, method->shape(kAsked, dense.config()), Rng(7));
  bool read = false;
  for (std::int64_t e = 0; e < kExperts; ++e)
    for (const Matrix matrix : kMatrices) {
      const Draft draft = moe.draft(e, matrix);
      read = read || !(std::holds_alternative<Draw>(draft) || std::holds_alternative<Constant>(draft));
    }
  EXPECT_LE(read, method->reads().weights);
  EXPECT_LE(asked, method->reads().moments);
}

TEST_P(EveryMethod, TakesOnlyFromItsOwnMatrixAndPlaceIfItSaysSo) {
  const auto method = GetParam().make({});
  if (!method->reads().own_place) GTEST_SKIP() << "it does not say so";
  const Dense dense;
  for (const Matrix own : kMatrices) {
    DenseLayer layer = dense.layer();
    layer.moments = [&, all = dense.layer().moments](Matrix matrix) -> const NeuronMoments& {
      EXPECT_EQ(matrix, own);
      return all(matrix);
    };
    const MoeLayer moe = method->convert(layer, method->shape(kAsked, dense.config()), Rng(7));
    for (std::int64_t e = 0; e < kExperts; ++e) EXPECT_FALSE(std::holds_alternative<Pick>(moe.draft(e, own)));
  }
}

TEST_P(EveryMethod, IsACopyExactlyWhenItSaysThatTheFunctionStays) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, method->shape(kAsked, dense.config()), Rng(7));
  bool all_copies = true;
  for (std::int64_t e = 0; e < kExperts; ++e)
    for (const Matrix matrix : kMatrices)
      all_copies = all_copies && std::holds_alternative<Copy>(moe.draft(e, matrix));
  EXPECT_EQ(all_copies, method->changes_function().empty());
}

TEST_P(EveryMethod, DrawsFiniteNumbersWithOtherKeysForOtherExpertsAndMatrices) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, method->shape(kAsked, dense.config()), Rng(7));
  std::set<std::uint64_t> streams;
  std::size_t draws = 0;
  for (std::int64_t e = 0; e < kExperts; ++e)
    for (const Matrix matrix : kMatrices) {
      const Draft draft = moe.draft(e, matrix);
      const Draw* draw = std::get_if<Draw>(&draft);
      if (const auto* redraw = std::get_if<Redraw>(&draft)) draw = &redraw->draw;
      if (const auto* disturb = std::get_if<Disturb>(&draft)) draw = &disturb->draw;
      if (draw == nullptr) continue;
      EXPECT_TRUE(std::isfinite(draw->mean) && std::isfinite(draw->sigma) && draw->sigma >= 0);
      streams.insert(draw->key.stream());
      ++draws;
    }
  EXPECT_EQ(streams.size(), draws);
}

TEST_P(EveryMethod, RefusesAnUnknownOption) {
  EXPECT_THROW(GetParam().make({{"no-such-option", "1"}}), UsageError);
}

TEST_P(EveryMethod, AcceptsItsOwnDefaults) {
  Values defaults;
  for (const OptionInfo& option : GetParam().options) defaults[option.name] = option.preset;
  for (const OptionInfo& option : GetParam().resolve(defaults))
    EXPECT_EQ(option.preset, defaults[option.name]) << option.name;
  EXPECT_NE(GetParam().make(defaults), nullptr);
}

TEST_P(EveryMethod, SaysWhatItIs) {
  const MethodInfo& method = GetParam();
  EXPECT_FALSE(method.summary.empty() || method.formula.empty() || method.source.empty());
  for (const OptionInfo& option : method.options) EXPECT_FALSE(option.help.empty()) << option.name;
}

INSTANTIATE_TEST_SUITE_P(All, EveryMethod, testing::ValuesIn(upcycle::methods()),
                         [](const auto& m) { return m.param.name; });

// ---- the methods' own promises ----

TEST(Drop, SharesOneSetOfNeuronsAmongTheThreeMatricesByDefault) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = find_plugin(upcycle::methods(), "drop", "method").make({});
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
  const auto neurons = [&](std::int64_t e, Matrix m) { return std::get<Redraw>(moe.draft(e, m)).neurons; };
  EXPECT_EQ(neurons(0, Matrix::gate), neurons(0, Matrix::up));
  EXPECT_EQ(neurons(0, Matrix::gate), neurons(0, Matrix::down));
  EXPECT_NE(neurons(0, Matrix::gate), neurons(1, Matrix::gate));
}

TEST(Drop, DrawsThreeSetsPerMatrix) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = find_plugin(upcycle::methods(), "drop", "method").make({{"indices", "per-matrix"}});
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
  const auto neurons = [&](Matrix m) { return std::get<Redraw>(moe.draft(0, m)).neurons; };
  EXPECT_NE(neurons(Matrix::gate), neurons(Matrix::up));
  EXPECT_NE(neurons(Matrix::gate), neurons(Matrix::down));
  EXPECT_NE(neurons(Matrix::up), neurons(Matrix::down));
}

TEST(Drop, TakesTheFloorOfRatioTimesNeuronsAndTheStatisticsOfWhatItReplaces) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  for (const double ratio : {0.1, 0.5, 0.99, 1.0}) {
    const auto method =
        find_plugin(upcycle::methods(), "drop", "method").make({{"ratio", fmt::format("{}", ratio)}});
    const auto redraw = std::get<Redraw>(method->convert(layer, kShape, Rng(7)).draft(2, Matrix::up));
    EXPECT_EQ(redraw.neurons.size(), static_cast<std::size_t>(std::floor(ratio * F)));
    const Moments replaced = layer.moments(Matrix::up).of_neurons(redraw.neurons);
    EXPECT_EQ(redraw.draw.mean, replaced.mean);
    EXPECT_EQ(redraw.draw.sigma, replaced.deviation());
  }
}

TEST(Drop, RefusesARatioOutsideZeroToOne) {
  const MethodInfo& drop = find_plugin(upcycle::methods(), "drop", "method");
  for (const char* ratio : {"-0.1", "1.1", "nan", "inf", "half", ""})
    EXPECT_THROW(drop.make({{"ratio", ratio}}), Error) << ratio;
}

TEST(Noise, ScalesSigmaByTheDeviationOfEachMatrixWhenRelative) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method =
      find_plugin(upcycle::methods(), "noise", "method").make({{"scale", "relative"}, {"sigma", "0.5"}});
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
  for (const Matrix matrix : kMatrices)
    EXPECT_DOUBLE_EQ(std::get<Disturb>(moe.draft(0, matrix)).draw.sigma,
                     0.5 * layer.moments(matrix).of_all().deviation());
}

TEST(Scratch, KeepsNoWeightButSetsNormsToOne) {
  const Dense dense;
  const auto method = find_plugin(upcycle::methods(), "scratch", "method").make({});
  const DenseWeight norm{"model.norm.weight", {H}, Role::norm}, head{"lm_head.weight", {8, H}, Role::head};
  EXPECT_EQ(std::get<Constant>(method->weight(norm, dense.config(), Rng(1))).value, 1.0f);
  EXPECT_EQ(std::get<Draw>(method->weight(head, dense.config(), Rng(1))).sigma, 0.02);
}

TEST(Split, DealsEveryNeuronToOneExpertAndTheSameForTheThreeMatrices) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  for (const std::string order : {"sequential", "random"}) {
    const auto method = find_plugin(upcycle::methods(), "split", "method").make({{"order", order}});
    const MoeShape shape = method->shape(kAsked, dense.config());
    EXPECT_EQ(shape.expert_size, F / kExperts);
    const MoeLayer moe = method->convert(layer, shape, Rng(7));
    std::vector<std::int32_t> all;
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const auto neurons = std::get<Pick>(moe.draft(e, Matrix::gate)).neurons;
      EXPECT_TRUE(std::ranges::is_sorted(neurons));
      for (const Matrix matrix : kMatrices) EXPECT_EQ(std::get<Pick>(moe.draft(e, matrix)).neurons, neurons);
      all.insert(all.end(), neurons.begin(), neurons.end());
    }
    EXPECT_EQ(std::ranges::is_sorted(all), order == "sequential");
    std::ranges::sort(all);
    for (std::int32_t i = 0; i < F; ++i) EXPECT_EQ(all.at(static_cast<std::size_t>(i)), i);
    EXPECT_EQ(all.size(), static_cast<std::size_t>(F));
  }
}

TEST(Split, ScalesDownAloneByExpertsOverTopKOrWhatIsAsked) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  for (const auto& [rescale, expected] : {std::pair("0", 2.0f), {"3.5", 3.5f}}) {
    const auto method = find_plugin(upcycle::methods(), "split", "method").make({{"rescale", rescale}});
    const MoeLayer moe = method->convert(layer, method->shape(kAsked, dense.config()), Rng(7));
    EXPECT_EQ(std::get<Pick>(moe.draft(1, Matrix::gate)).scale, 1);
    EXPECT_EQ(std::get<Pick>(moe.draft(1, Matrix::up)).scale, 1);
    EXPECT_EQ(std::get<Pick>(moe.draft(1, Matrix::down)).scale, expected);
  }
}

TEST(Split, RefusesExpertsThatCannotShareTheNeuronsEqually) {
  const Dense dense;
  const auto method = find_plugin(upcycle::methods(), "split", "method").make({});
  try {
    method->shape({.experts = 5, .per_token = 2}, dense.config());
    FAIL();
  } catch (const UsageError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("5 experts"), std::string::npos) << message;
    EXPECT_NE(message.find("24 neurons"), std::string::npos) << message;
  }
}

TEST(Reads, FollowsTheOptions) {
  const auto reads = [](const std::string& method, const Values& options) {
    return find_plugin(upcycle::methods(), method, "method").make(options)->reads();
  };
  EXPECT_FALSE(reads("copy", {}).moments);
  EXPECT_TRUE(reads("drop", {}).moments);
  EXPECT_FALSE(reads("drop", {{"ratio", "0"}}).moments);
  EXPECT_FALSE(reads("noise", {}).moments);
  EXPECT_TRUE(reads("noise", {{"scale", "relative"}}).moments);
  EXPECT_FALSE(reads("noise", {{"scale", "relative"}, {"sigma", "0"}}).moments);
  EXPECT_FALSE(reads("scratch", {}).weights);
}

TEST(NeuronMoments, AreTheSameForAnyCutIntoRangesOfRows) {
  constexpr std::int64_t kF = 300, kH = 200, kStep = NeuronMomentsBuilder::kRowStep;
  std::vector<std::byte> bytes(kF * kH * 2);
  std::vector<float> weights(kF * kH);
  normals(Rng(1), 0, 0.1f, 1.0f, weights);
  from_float(weights, Dtype::bf16, bytes);
  for (const Matrix matrix : kMatrices) {
    const std::int64_t rows = matrix == Matrix::down ? kH : kF, row_bytes = kF * kH * 2 / rows;
    const auto rows_from = [&](std::int64_t begin, std::int64_t end) {
      return std::span(bytes).subspan(static_cast<std::size_t>(begin * row_bytes),
                                      static_cast<std::size_t>((end - begin) * row_bytes));
    };
    const NeuronMoments whole = NeuronMoments::of(matrix, Dtype::bf16, bytes, kF, kH);
    for (const std::int64_t steps : {1, 2, 3, 100}) {
      NeuronMomentsBuilder builder(matrix, Dtype::bf16, kF, kH);
      for (std::int64_t r = 0; r < rows; r += steps * kStep) {
        const std::int64_t end = std::min(rows, r + steps * kStep);
        builder.add_rows(r, end, rows_from(r, end));
      }
      EXPECT_EQ(builder.take(), whole) << matrix_name(matrix) << " " << steps;
    }
    NeuronMomentsBuilder builder(matrix, Dtype::bf16, kF, kH);
    EXPECT_THROW(builder.add_rows(kStep, 2 * kStep, rows_from(kStep, 2 * kStep)), Error);
    builder.add_rows(0, 10, rows_from(0, 10));
    EXPECT_THROW(builder.add_rows(10, 20, rows_from(10, 20)), Error);
    EXPECT_THROW(builder.take(), Error);
  }
}

// --ratio of drop and of noise is one option, so it has to mean one thing.
TEST(Registry, HasNoOptionThatTheProgramHasAndNoneWithTwoMeanings) {
  EXPECT_EQ(test::option_faults(upcycle::methods(), ""), std::vector<std::string>{});
}

TEST(Registry, AnswersAMisspeltMethodWithWhatThereIs) {
  try {
    find_plugin(upcycle::methods(), "dorp", "upcycling method");
    FAIL();
  } catch (const UsageError& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("there is no upcycling method 'dorp'; there are: ")) << message;
    EXPECT_TRUE(message.ends_with("; did you mean 'drop'?")) << message;
    for (const MethodInfo& method : upcycle::methods())
      EXPECT_NE(message.find(method.name), std::string::npos) << method.name;
  }
}

}  // namespace
}  // namespace upmoe
