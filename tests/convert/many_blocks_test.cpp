// Tiny models with blocks and chunks of a page, so that they are as many as a large model's: every method of
// the registry, and methods that use all that method.h allows. What comes out is compared with drafts carried
// out on whole tensors, one after the other.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/convert/convert.h"
#include "upmoe/convert/fill.h"
#include "upmoe/random/sample.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;

// A hang is an end, too.
class Deadline {
 public:
  Deadline() { ::alarm(100); }
  ~Deadline() { ::alarm(0); }
};

const auto kPage = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
const std::vector<Sizes> kSizes = {{.block = kPage, .chunk = kPage, .most_slots = 12},
                                   {.block = 3 * kPage, .chunk = kPage, .most_slots = 40},
                                   {.block = kPage, .chunk = 2 * kPage, .most_slots = 6}};

class ManyBlocks : public testing::Test {
 protected:
  // Matrices of 16 pages (of 4096 bytes).
  static void SetUpTestSuite() {
    folder_ = new test::TempFolder;
    test::make_tiny_llama(*folder_ / "dense",
                          {.layers = 2, .hidden = 64, .ffn = 512, .vocab = 300, .tied = true, .shards = 2});
  }
  static void TearDownTestSuite() { delete folder_; }

  static Plan plan(const std::string& method = "copy", const Values& options = {}) {
    ConvertRequest request;
    request.folder = folder_->path() / "dense";
    request.source = request.folder.string();
    request.method = method;
    request.method_options = options;
    request.experts = 4;
    request.max_shard_bytes = 500'000;
    return make_plan(request);
  }
  // In place of the registry's.
  static Plan plan(std::unique_ptr<Method> method) {
    Plan out = plan();
    out.method = std::move(method);
    return out;
  }
  static fs::path place() { return *folder_ / "out"; }

  static void expect_as_defined(const Plan& plan);
  static test::TempFolder* folder_;
};
test::TempFolder* ManyBlocks::folder_ = nullptr;

// All tensors of the output but for the routers, each made whole.
std::map<std::string, std::vector<std::byte>> defined(const Plan& plan) {
  const DenseConfig& config = plan.source.config();
  std::map<std::string, std::vector<std::byte>> out;
  const auto data = [](const DenseModel::Weight& weight) {
    return weight.stored.file->data(*weight.stored.info);
  };
  std::map<std::pair<std::int64_t, Matrix>, NeuronMoments> moments;
  for (const DenseModel::Weight& weight : plan.source.weights())
    if (const DenseWeight& is = weight.is; is.role == Role::matrix)
      moments.emplace(std::pair(is.layer, is.matrix),
                      NeuronMoments::of(is.matrix, weight.stored.info->dtype, data(weight),
                                        config.intermediate_size, config.hidden_size));
  for (const PlannedFile& file : plan.files)
    for (const PlannedTensor& tensor : file.tensors) {
      const Origin& origin = tensor.origin;
      if (origin.kind == Origin::Kind::router) continue;
      const DenseModel::Weight& weight = plan.source.weights()[origin.weight];
      const DenseLayer layer{origin.layer, config, [&](Matrix matrix) -> const NeuronMoments& {
                               return moments.at({origin.layer, matrix});
                             }};
      Draft draft = Copy{};
      if (origin.kind == Origin::Kind::dense)
        draft = plan.method->weight(weight.is, config, weight_key(plan, weight.is));
      else
        draft = plan.method->convert(layer, plan.shape, layer_key(plan, origin.layer))
                    .draft(origin.expert, weight.is.matrix);
      const auto& shape = tensor.info.shape;
      const auto& dense = weight.is.shape;
      std::vector<std::byte>& bytes = out[tensor.info.name];
      bytes.resize(tensor.info.bytes());
      fill(draft,
           {.dtype = tensor.info.dtype,
            .rows = shape[0],
            .cols = shape.size() > 1 ? shape[1] : 1,
            .neurons_in_columns = weight.is.role == Role::matrix && weight.is.matrix == Matrix::down,
            .dense = data(weight),
            .dense_rows = dense[0],
            .dense_cols = dense.size() > 1 ? dense[1] : 1},
           0, bytes);
    }
  return out;
}

void ManyBlocks::expect_as_defined(const Plan& plan) {
  const Deadline deadline;
  const auto expected = defined(plan);
  for (const Sizes& sizes : kSizes)
    for (const std::size_t threads : {1, 2, 3, 8}) {
      convert(plan, place(), {.threads = threads, .sizes = sizes});
      {
        const Weights weights{Folder(place())};
        for (const auto& [name, bytes] : expected)
          ASSERT_TRUE(std::ranges::equal(weights.entries().at(name).data(), bytes))
              << name << " with " << threads << " threads and blocks of " << sizes.block;
      }
      fs::remove_all(place());
    }
}

class EveryMethodInManyBlocks : public ManyBlocks, public testing::WithParamInterface<std::string> {};
std::vector<std::string> method_names() {
  std::vector<std::string> out;
  for (const MethodInfo& method : upcycle::methods()) out.push_back(method.name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(All, EveryMethodInManyBlocks, testing::ValuesIn(method_names()),
                         [](const auto& each) { return each.param; });

TEST_P(EveryMethodInManyBlocks, GivesWhatItsDraftsSay) { expect_as_defined(plan(GetParam())); }

TEST_P(EveryMethodInManyBlocks, GivesTheSameFilesForBlocksOfAnySize) {
  const Deadline deadline;
  const Plan plan = this->plan(GetParam());
  const auto made = [&](const Sizes& sizes) {
    convert(plan, place(), {.threads = 3, .sizes = sizes});
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::directory_iterator(place()))
      out[entry.path().filename()] = test::read_file(entry.path());
    fs::remove_all(place());
    return out;
  };
  const auto expected = made({});
  for (const Sizes& sizes : kSizes) EXPECT_TRUE(made(sizes) == expected) << sizes.block;
}

TEST_P(EveryMethodInManyBlocks, GoesOnWhereItWasCancelled) {
  const Deadline deadline;
  const Plan plan = this->plan(GetParam());
  const auto expected = defined(plan);
  const Sizes sizes = kSizes[0];
  for (const std::uint64_t stop : {1, 20, 60}) {
    std::atomic<bool> cancelled = false;
    std::uint64_t done = 0;
    const auto count = [&](auto, auto) { cancelled = ++done >= stop; };
    EXPECT_THROW(
        convert(plan, place(),
                {.threads = 3, .cancelled = &cancelled, .progress = count, .resume = true, .sizes = sizes}),
        Interrupted);
    const Converted again = convert(plan, place(), {.threads = 3, .resume = true, .sizes = sizes});
    const Weights weights{Folder(place())};
    for (const auto& [name, bytes] : expected)
      EXPECT_TRUE(std::ranges::equal(weights.entries().at(name).data(), bytes)) << name << " after " << stop;
    fs::remove_all(place());
  }
}

TEST_F(ManyBlocks, GiveWhatDraftsSayWithOtherOptions) {
  expect_as_defined(plan("noise", {{"scale", "relative"}}));
  expect_as_defined(plan("drop", {{"indices", "per-matrix"}}));
  expect_as_defined(plan("split", {{"order", "sequential"}}));
}

// A method as a test wants it.
class Any : public Method {
 public:
  using Made = std::function<Draft(const DenseLayer&, const Rng&, std::int64_t e, Matrix)>;
  Any(Reads reads, Made made) : reads_(reads), made_(std::move(made)) {}
  std::string changes_function() const override { return "it is a test"; }
  Reads reads() const override { return reads_; }
  MoeLayer convert(const DenseLayer& layer, const MoeShape& /*shape*/, const Rng& key) const override {
    return {
        .draft = [&layer, key, this](std::int64_t e, Matrix matrix) { return made_(layer, key, e, matrix); }};
  }

 private:
  Reads reads_;
  Made made_;
};

Draw draw_of(const Rng& key, std::int64_t e, Matrix matrix, double sigma) {
  return {key.at(matrix_name(matrix)).at(static_cast<std::uint64_t>(e)), 0, sigma};
}

class Shuffle final : public Any {
 public:
  Shuffle()
      : Any({}, [](const DenseLayer& layer, const Rng& key, std::int64_t e, Matrix) {
          return Pick{
              permutation(key.at("order").at(static_cast<std::uint64_t>(e)), layer.config.intermediate_size)};
        }) {}
  // The words as well.
  Draft weight(const DenseWeight& weight, const DenseConfig& config, const Rng& key) const override {
    if (weight.role != Role::embedding) return Copy{};
    return Pick{permutation(key, config.vocab_size)};
  }
};

TEST_F(ManyBlocks, LetAMethodPickAllNeuronsInAnotherOrder) {
  expect_as_defined(plan(std::make_unique<Shuffle>()));
}

TEST_F(ManyBlocks, LetADraftAskForTheMomentsOfAnotherMatrix) {
  for (const int shift : {1, 2})
    expect_as_defined(plan(std::make_unique<Any>(
        Method::Reads{.weights = true, .moments = true},
        [shift](const DenseLayer& layer, const Rng& key, std::int64_t e, Matrix matrix) {
          const Matrix other =
              kMatrices[(static_cast<std::size_t>(matrix) + static_cast<std::size_t>(shift)) % 3];
          return Redraw{{3, 100, 511}, draw_of(key, e, matrix, layer.moments(other).of_all().deviation())};
        })));
}

TEST_F(ManyBlocks, LetAMethodReadMomentsWithoutWeights) {
  expect_as_defined(
      plan(std::make_unique<Any>(Method::Reads{.weights = false, .moments = true},
                                 [](const DenseLayer& layer, const Rng& key, std::int64_t e, Matrix matrix) {
                                   return draw_of(key, e, matrix, layer.moments(matrix).of_all().deviation());
                                 })));
}

// What a method has not announced is an error, not a crash, and nobody waits for it.
TEST_F(ManyBlocks, RefuseWhatAMethodDoesNotAnnounce) {
  const Deadline deadline;
  const auto fails = [&](Method::Reads reads, const Any::Made& made, std::string_view says) {
    for (const std::size_t threads : {1, 4})
      EXPECT_TRUE(test::fails_with(
          [&] {
            convert(plan(std::make_unique<Any>(reads, made)), place(),
                    {.threads = threads, .sizes = kSizes[0]});
          },
          {"method 'copy'", says}));
    EXPECT_FALSE(fs::exists(place()));
  };
  const auto copies = [](const DenseLayer&, const Rng&, std::int64_t, Matrix) { return Copy{}; };
  fails({.weights = false}, copies, "takes weights");
  const auto picks = [](const DenseLayer& layer, const Rng& key, std::int64_t, Matrix) {
    return Pick{permutation(key, layer.config.intermediate_size)};
  };
  fails({.own_place = true}, picks, "picks neurons");
  const auto asks_gate = [](const DenseLayer& layer, const Rng& key, std::int64_t e, Matrix matrix) {
    return draw_of(key, e, matrix, layer.moments(Matrix::gate).of_all().deviation());
  };
  fails({.weights = false, .moments = true, .own_place = true}, asks_gate,
        "asks for moments of layer 0's gate");
  fails({.weights = true, .moments = false}, asks_gate, "asks for moments of layer 0's gate");
}

// While one worker fails, the others wait for chunks that have no slot before it gives its own back.
TEST_F(ManyBlocks, EndWhenADraftFails) {
  const Deadline deadline;
  for (const std::size_t threads : {1, 2, 8})
    EXPECT_TRUE(test::fails_with(
        [&] {
          convert(plan(std::make_unique<Any>(
                      Method::Reads{},
                      [](const DenseLayer& layer, const Rng&, std::int64_t e, Matrix matrix) -> Draft {
                        if (layer.index == 1 && e == 2 && matrix == Matrix::up) {
                          std::this_thread::sleep_for(std::chrono::milliseconds(50));
                          fail("this draft fails");
                        }
                        return Copy{};
                      })),
                  place(), {.threads = threads, .sizes = kSizes[2]});
        },
        {"this draft fails"}));
}

}  // namespace
}  // namespace upmoe
