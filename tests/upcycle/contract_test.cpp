// What every upcycling method promises. A new method is enrolled by its registry line.
// F: neurons, H: hidden size. gate_FH, up_FH, down_HF.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

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

const MoeShape kShape{.experts = kExperts, .per_token = 2, .expert_size = F};

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
  EXPECT_EQ(drafts(method->convert(layer, kShape, Rng(7)), false),
            drafts(method->convert(layer, kShape, Rng(7)), true));
}

TEST_P(EveryMethod, GivesTheSameDraftsFromManyThreads) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
  std::vector<std::vector<std::string>> found(8);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < found.size(); ++t)
      threads.emplace_back([&, t] { found[t] = drafts(moe, t % 2 == 1); });
  }
  for (const auto& one : found) EXPECT_EQ(one, found[0]);
}

TEST_P(EveryMethod, ChoosesNeuronsInAscendingOrderAndWithinTheExpert) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
  for (std::int64_t e = 0; e < kExperts; ++e)
    for (const Matrix matrix : kMatrices) {
      const Draft draft = moe.draft(e, matrix);
      const std::vector<std::int32_t>* neurons = nullptr;
      if (const auto* redraw = std::get_if<Redraw>(&draft)) neurons = &redraw->neurons;
      if (const auto* disturb = std::get_if<Disturb>(&draft)) neurons = &disturb->neurons;
      if (neurons == nullptr) continue;
      for (std::size_t i = 0; i < neurons->size(); ++i) {
        EXPECT_LT(i == 0 ? -1 : (*neurons)[i - 1], (*neurons)[i]);
        EXPECT_LT((*neurons)[i], F);
      }
    }
}

TEST_P(EveryMethod, IsACopyExactlyWhenItSaysThatTheFunctionStays) {
  const Dense dense;
  const DenseLayer layer = dense.layer();
  const auto method = GetParam().make({});
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
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
  const MoeLayer moe = method->convert(layer, kShape, Rng(7));
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
