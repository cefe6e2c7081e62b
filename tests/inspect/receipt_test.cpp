#include "upmoe/inspect/receipt.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/fails_with.h"
#include "tests/inspect/converted.h"
#include "upmoe/base/error.h"
#include "upmoe/checkpoint/folder.h"
#include "upmoe/upcycle/registry.h"

namespace upmoe {

inline void PrintTo(const MethodInfo& method, std::ostream* out) { *out << method.name; }

namespace {

constexpr std::int64_t F = 48, kExperts = 4;

// What is broken, as "NAME: text" each.
std::vector<std::string> broken(const Receipt& receipt) {
  std::vector<std::string> out;
  for (const Promise& promise : receipt.promises)
    for (const std::string& text : promise.broken) out.push_back(promise.name + ": " + text);
  return out;
}

const Promise& promise(const Receipt& receipt, const std::string& name) {
  return *std::ranges::find(receipt.promises, name, &Promise::name);
}

class ReceiptTest : public test::ConvertedTest {
 protected:
  Receipt receipt(const std::filesystem::path& moe) const { return make_receipt(moe, dense(), 2); }

  // Turns the lowest bit of the byte at `at` of a tensor around.
  static void flip(const std::filesystem::path& folder, const std::string& name, std::uint64_t at = 0) {
    std::filesystem::path file;
    std::uint64_t place = 0;
    {
      const Weights weights{Folder(folder)};
      const Weights::Entry& entry = weights.entries().at(name);
      file = entry.file->path();
      place = entry.file->data_begin(*entry.info) + at;
    }
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(place));
    const int byte = stream.get();
    stream.seekp(static_cast<std::streamoff>(place));
    stream.put(static_cast<char>(byte ^ 1));
  }

  // As upmoe wrote it before there were hashes of files.
  static void make_old(const std::filesystem::path& folder) {
    auto json = nlohmann::json::parse(test::read_file(folder / "upmoe.json"));
    json.erase("version");
    json["output"].erase("files");
    json["output"].erase("card_xxh3");
    test::write_file(folder / "upmoe.json", json.dump());
  }

  void make_side_files() const {
    for (const char* name :
         {"tokenizer.json", "LICENSE", "chat_template.jinja", "additional_chat_templates/tool.jinja"})
      test::write_file(dense() / name, "{}");
  }

  static void change_record(const std::filesystem::path& folder, const nlohmann::json::json_pointer& where,
                            const nlohmann::json& value) {
    auto json = nlohmann::json::parse(test::read_file(folder / "upmoe.json"));
    json[where] = value;
    test::write_file(folder / "upmoe.json", json.dump());
  }
};

class EveryMethod : public ReceiptTest, public testing::WithParamInterface<MethodInfo> {};

TEST_P(EveryMethod, KeepsItsPromise) {
  const Receipt found = receipt(converted(GetParam().name));
  EXPECT_EQ(broken(found), std::vector<std::string>{});
  EXPECT_TRUE(found.holds());
  EXPECT_EQ(found.method, GetParam().name);
  EXPECT_EQ(found.promises.size(), 7u);
  EXPECT_EQ(found.notes, std::vector<std::string>{});
}

TEST_P(EveryMethod, IsFoundOutWhenAByteOfAnExpertIsChanged) {
  for (const char* matrix : {"w1", "w2", "w3"}) {
    const std::filesystem::path moe = converted(GetParam().name);
    const std::string name = fmt::format("model.layers.1.block_sparse_moe.experts.2.{}.weight", matrix);
    flip(moe, name, 100);
    const Receipt found = receipt(moe);
    EXPECT_FALSE(found.holds());
    EXPECT_EQ(promise(found, "output").broken, std::vector{name + " has other bytes"});
  }
}

TEST_P(EveryMethod, IsFoundOutWhenAByteElsewhereIsChanged) {
  for (const char* name : {"model.norm.weight", "model.layers.0.self_attn.k_proj.weight",
                           "model.layers.1.block_sparse_moe.gate.weight", "lm_head.weight"}) {
    const std::filesystem::path moe = converted(GetParam().name);
    flip(moe, name);
    EXPECT_EQ(promise(receipt(moe), "output").broken, std::vector{std::string(name) + " has other bytes"});
  }
}

TEST_P(EveryMethod, IsFoundOutWhenTheSourceIsAnotherOne) {
  const std::filesystem::path moe = converted(GetParam().name);
  test::make_tiny_llama(dense(), {.seed = 1, .extra = R"({"rope_theta": 20000.0})"});
  EXPECT_FALSE(promise(receipt(moe), "source").broken.empty());
}

TEST_P(EveryMethod, GivesTheSameReceiptForAnyNumberOfThreads) {
  const std::filesystem::path moe = converted(GetParam().name);
  const Receipt one = make_receipt(moe, dense(), 1), many = make_receipt(moe, dense(), 5);
  EXPECT_EQ(one.covered, many.covered);
  ASSERT_EQ(one.promises.size(), many.promises.size());
  for (std::size_t i = 0; i < one.promises.size(); ++i)
    EXPECT_EQ(one.promises[i].text, many.promises[i].text);
}

INSTANTIATE_TEST_SUITE_P(Receipt, EveryMethod, testing::ValuesIn(upcycle::methods()),
                         [](const auto& method) { return method.param.name; });

TEST_F(ReceiptTest, SaysThatACopyKeepsEverything) {
  const Receipt found = receipt(converted("copy"));
  for (const auto& layer : found.kept)
    for (const Receipt::Kept& expert : layer) {
      EXPECT_EQ(expert.whole, F);
      EXPECT_EQ(expert.moved, 0);
    }
  EXPECT_EQ(found.covered, (std::vector<std::int64_t>{F, F}));
  EXPECT_EQ(found.identical, found.others);
  EXPECT_TRUE(found.promised_exact);
  EXPECT_TRUE(found.not_identical.empty() && found.dtypes.empty() && !found.head_written_out);
  EXPECT_EQ(promise(found, "neurons").text,
            "1152 of 1152 rows and columns that 'copy' keeps are the source's");
}

TEST_F(ReceiptTest, SaysThatDropKeepsItsShareWholeWithSharedIndices) {
  const Receipt found = receipt(converted("drop", {{"ratio", "0.3"}}));
  for (const auto& layer : found.kept)
    for (const Receipt::Kept& expert : layer) {
      EXPECT_EQ(expert.gate, F - 14);
      EXPECT_EQ(expert.up, F - 14);
      EXPECT_EQ(expert.down, F - 14);
      EXPECT_EQ(expert.whole, F - 14);
    }
  EXPECT_FALSE(found.promised_exact);
  EXPECT_EQ(found.not_exact_because, "30 % of each expert's neurons are re-initialised");
}

TEST_F(ReceiptTest, SaysThatDropKeepsFewerWholeWithIndicesOfEachMatrix) {
  const Receipt found = receipt(converted("drop", {{"indices", "per-matrix"}}));
  std::int64_t whole = 0;
  for (const auto& layer : found.kept)
    for (const Receipt::Kept& expert : layer) {
      EXPECT_EQ(expert.gate, F / 2);
      EXPECT_EQ(expert.up, F / 2);
      EXPECT_EQ(expert.down, F / 2);
      whole += expert.whole;
    }
  EXPECT_NEAR(double(whole) / (2 * kExperts * F), 0.125, 0.06);  // an eighth; deviation 0.017
}

TEST_F(ReceiptTest, RecognisesTheNeuronsThatSplitDealsOut) {
  for (const char* rescale : {"1", "0", "1.7"}) {
    const Receipt found = receipt(converted("split", {{"rescale", rescale}}));
    EXPECT_TRUE(found.holds()) << rescale;
    EXPECT_EQ(found.covered, (std::vector<std::int64_t>{F, F}));
    for (const auto& layer : found.kept)
      for (const Receipt::Kept& expert : layer) {
        EXPECT_EQ(expert.paired, F / kExperts);
        EXPECT_GT(expert.moved, 0);
        EXPECT_EQ(expert.whole, std::string(rescale) == "1" ? F / kExperts : 0);
      }
  }
}

TEST_F(ReceiptTest, SaysThatScratchKeepsNothing) {
  const Receipt found = receipt(converted("scratch"));
  EXPECT_EQ(found.covered, (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(found.identical, 0);
  EXPECT_EQ(promise(found, "neurons").text, "'scratch' keeps nothing of the FFNs");
}

TEST_F(ReceiptTest, NamesTheExpertWhoseNeuronIsNotTheSources) {
  const std::filesystem::path moe = converted("copy");
  flip(moe, "model.layers.0.block_sparse_moe.experts.3.w2.weight", 2 * (48 * 5 + 7));
  const Receipt found = receipt(moe);
  EXPECT_EQ(promise(found, "neurons").broken,
            std::vector<std::string>{"layer 0, expert 3, down: 1 neurons are not the source's"});
  EXPECT_EQ(found.kept[0][3].whole, F - 1);
}

TEST_F(ReceiptTest, FindsThatNothingWasDrawnAnewWhereDropSaysSo) {
  const std::filesystem::path copy = converted("copy"), drop = converted("drop");
  test::write_file(copy / "upmoe.json", test::read_file(drop / "upmoe.json"));
  const std::vector<std::string> found = promise(receipt(copy), "neurons").broken;
  ASSERT_EQ(found.size(), 2u * kExperts * 3);
  EXPECT_EQ(found[0],
            "layer 0, expert 0, gate: 24 neurons should have been re-initialised, but equal the source's");
}

TEST_F(ReceiptTest, FindsARecordThatSaysSomethingElse) {
  using Pointer = nlohmann::json::json_pointer;
  const std::vector<std::tuple<std::string, nlohmann::json, std::string>> changes = {
      {"/options/seed", 1, "neurons"},
      {"/options/ratio", 0.25, "neurons"},
      {"/options/indices", "per-matrix", "neurons"},
      {"/options/experts", 5, "shape"},
      {"/options/top-k", 1, "shape"},
      {"/output/tensors/model.norm.weight", "0123456789abcdef", "output"},
      {"/output/tensors/stranger", "0123456789abcdef", "output"},
      {"/source/tensors/model.norm.weight", "0123456789abcdef", "source"},
      {"/source/config_xxh3", "0123456789abcdef", "source"}};
  for (const auto& [where, value, name] : changes) {
    const std::filesystem::path moe = converted("drop");
    change_record(moe, Pointer(where), value);
    EXPECT_FALSE(promise(receipt(moe), name).broken.empty()) << where;
  }
}

TEST_F(ReceiptTest, RefusesARecordThatIsNone) {
  using Pointer = nlohmann::json::json_pointer;
  const std::filesystem::path moe = converted("split");
  const std::string whole = test::read_file(moe / "upmoe.json");
  const std::vector<std::pair<std::string, nlohmann::json>> changes = {
      {"/options/method", "dorp"},   {"/options/order", "sorted"},
      {"/options/experts", 0},       {"/options/experts", 5},
      {"/options/top-k", 9},         {"/options/seed", "zero"},
      {"/options/seed", -1},         {"/options/seed", 0.5},
      {"/options/seed", 1e300},      {"/options/experts", 4.5},
      {"/options/top-k", true},      {"/output/tensors", 7},
      {"/source", nlohmann::json{}}, {"/function_preserving", "yes"},
      {"/options/rescale", nullptr}, {"/options/rescale", "\x1b[31m"},
      {"/options", nlohmann::json{}}};
  for (const auto& [where, value] : changes) {
    test::write_file(moe / "upmoe.json", whole);
    change_record(moe, Pointer(where), value);
    EXPECT_TRUE(test::fails_with([&] { receipt(moe); }, {"upmoe.json"})) << where << " " << value;
    EXPECT_FALSE(test::fails_with<UsageError>([&] { receipt(moe); }, {})) << "blames the command line";
  }
}

TEST_F(ReceiptTest, KnowsTheLargestSeed) {
  const std::filesystem::path moe = converted("copy");
  change_record(moe, nlohmann::json::json_pointer("/options/seed"),
                std::numeric_limits<std::uint64_t>::max());
  EXPECT_TRUE(receipt(moe).holds());
}

TEST_F(ReceiptTest, FindsEveryFieldOfTheConfigurationThatWasChanged) {
  const std::vector<std::tuple<std::string, nlohmann::json, std::string>> changes = {
      {"rope_theta", 5000.5, "rope_theta is 5000.5, expected 10000.0"},
      {"vocab_size", 96, "vocab_size is 96, expected "},
      {"tie_word_embeddings", true, "tie_word_embeddings is true, expected false"},
      {"rms_norm_eps", 0.5, "rms_norm_eps is 0.5, expected "},
      {"auto_map", "x", "auto_map is \"x\", and was not written"},
      {"eos_token_id", 7, "eos_token_id is 7, expected "},
      {"temperature", 0.1, "temperature is 0.1, and was not written"},
      {"forced_eos_token_id", 7, "forced_eos_token_id is 7, and was not written"},
      {"max_sequence_length", 8, "max_sequence_length is 8, and was not written"},
      {"do_sample", true, "do_sample is true, and was not written"}};
  for (const bool has_hashes : {true, false})
    for (const auto& [key, value, says] : changes) {
      const std::filesystem::path moe = converted("copy");
      auto config = nlohmann::ordered_json::parse(test::read_file(moe / "config.json"));
      config[key] = value;
      test::write_file(moe / "config.json", config.dump(2) + "\n");
      if (!has_hashes) make_old(moe);
      const Receipt found = receipt(moe);
      EXPECT_EQ(broken(found).size(), 1u) << key;
      ASSERT_EQ(promise(found, "config").broken.size(), 1u) << key;
      EXPECT_TRUE(promise(found, "config").broken[0].starts_with(says)) << promise(found, "config").broken[0];
    }
}

TEST_F(ReceiptTest, NotesAConfigurationWithOtherBytesOfTheSameMeaning) {
  const std::filesystem::path moe = converted("copy");
  test::write_file(moe / "config.json", test::read_file(moe / "config.json") + " ");
  const Receipt found = receipt(moe);
  EXPECT_TRUE(found.holds());
  EXPECT_EQ(found.notes,
            std::vector<std::string>{
                "config.json has other bytes than were written, and every field is as expected"});
}

TEST_F(ReceiptTest, NotesKeysOfTheConfigurationThatChangeNothing) {
  const std::filesystem::path moe = converted("copy");
  auto config = nlohmann::ordered_json::parse(test::read_file(moe / "config.json"));
  config.update({{"temperature", 1.0},
                 {"do_sample", false},
                 {"pruned_heads", nlohmann::json::object()},
                 {"forced_eos_token_id", nullptr},
                 {"_name_or_path", "mine"}});
  test::write_file(moe / "config.json", config.dump(2));
  EXPECT_TRUE(receipt(moe).holds());
}

TEST_F(ReceiptTest, FindsEveryFileThatWasChangedOrIsMissing) {
  make_side_files();
  for (const std::string name : {"tokenizer.json", "LICENSE", "chat_template.jinja", "upmoe-recipe.toml",
                                 "additional_chat_templates/tool.jinja"}) {
    const std::filesystem::path moe = converted("copy");
    EXPECT_TRUE(receipt(moe).holds());
    test::write_file(moe / name, test::read_file(moe / name) + " ");
    EXPECT_EQ(broken(receipt(moe)), std::vector<std::string>{"files: " + name + " has other bytes"});
    std::filesystem::remove(moe / name);
    EXPECT_EQ(broken(receipt(moe)), std::vector<std::string>{"files: " + name + " is missing"});
  }
}

TEST_F(ReceiptTest, NotesACardThatWasEditedAndFilesThatWereAdded) {
  make_side_files();
  const std::filesystem::path moe = converted("copy");
  test::write_file(moe / "README.md", "mine");
  test::write_file(moe / "notes.txt", "mine");
  std::filesystem::create_directory(moe / "deep");
  const Receipt found = receipt(moe);
  EXPECT_TRUE(found.holds());
  EXPECT_EQ(found.notes,
            (std::vector<std::string>{"README.md was edited", "deep was added: upmoe.json does not know it",
                                      "notes.txt was added: upmoe.json does not know it"}));
}

TEST_F(ReceiptTest, FindsAddedFilesThatLoadersRead) {
  make_side_files();
  for (const std::string name : {"additional_chat_templates/rag.jinja", "special_tokens_map.json",
                                 "other.safetensors", "model.safetensors.index.json", "modeling.py"}) {
    const std::filesystem::path moe = converted("copy");
    test::write_file(moe / name, "mine");
    EXPECT_EQ(broken(receipt(moe)),
              std::vector<std::string>{"files: " + name +
                                       " was added, and programs that load the model look for it"});
    std::filesystem::remove(moe / name);  // --replace would refuse it
  }
}

TEST_F(ReceiptTest, HoldsAnOutputOfVersion1AndNotesWhatIsNotChecked) {
  make_side_files();
  const std::filesystem::path moe = converted("drop");
  make_old(moe);
  test::write_file(moe / "tokenizer.json", "{\"other\": 1}");
  const Receipt found = receipt(moe);
  EXPECT_TRUE(found.holds());
  ASSERT_EQ(found.notes.size(), 1u);
  EXPECT_NE(found.notes[0].find("version 1"), std::string::npos) << found.notes[0];
}

TEST_F(ReceiptTest, TakesTheDefaultOfAnOptionThatIsNewerThanTheRecord) {
  const std::filesystem::path moe = converted("drop");
  auto json = nlohmann::json::parse(test::read_file(moe / "upmoe.json"));
  json["options"].erase("indices");
  test::write_file(moe / "upmoe.json", json.dump());
  const Receipt found = receipt(moe);
  EXPECT_EQ(broken(found), std::vector<std::string>{});
  EXPECT_EQ(found.notes, std::vector<std::string>{
                             "upmoe.json does not have the option 'indices' of 'drop': taken as shared"});
}

TEST_F(ReceiptTest, RefusesARecordOfALaterVersion) {
  const std::filesystem::path moe = converted("copy");
  change_record(moe, nlohmann::json::json_pointer("/version"), 3);
  EXPECT_TRUE(test::fails_with([&] { receipt(moe); }, {"upmoe.json", "its version is 3", "up to 2"}));
}

TEST_F(ReceiptTest, OpensNothingOutsideTheFolder) {
  const std::filesystem::path moe = converted("copy");
  const std::string whole = test::read_file(moe / "upmoe.json");
  for (const std::string name :
       {"../dense/config.json", "/etc/hostname", "additional_chat_templates/../../x", "a/b"}) {
    auto json = nlohmann::json::parse(whole);
    json["output"]["files"][name] = "0123456789abcdef";
    test::write_file(moe / "upmoe.json", json.dump());
    std::filesystem::create_directories(moe / "additional_chat_templates");
    EXPECT_TRUE(test::fails_with([&] { receipt(moe); }, {"upmoe.json"})) << name;
  }
}

TEST_F(ReceiptTest, PromisesNothingWithoutARecord) {
  const std::filesystem::path moe = converted("copy");
  std::filesystem::remove(moe / "upmoe.json");
  flip(moe, "model.norm.weight");
  const Receipt found = receipt(moe);
  EXPECT_EQ(found.method, "");
  EXPECT_TRUE(found.promises.empty() && found.holds());
  ASSERT_EQ(found.not_identical.size(), 1u);
  EXPECT_EQ(found.not_identical[0].name, "model.norm.weight");
  EXPECT_EQ(found.not_identical[0].what, "differs");
}

TEST_F(ReceiptTest, TakesAWrittenOutHeadForTheEmbedding) {
  const std::filesystem::path moe = converted("drop", {}, {.tied = true});
  const Receipt found = receipt(moe);
  EXPECT_TRUE(found.head_written_out && found.holds());
  EXPECT_TRUE(found.not_identical.empty());
  flip(moe, "lm_head.weight");
  EXPECT_EQ(promise(receipt(moe), "others").broken, std::vector<std::string>{"lm_head.weight differs"});
}

TEST_F(ReceiptTest, LooksIntoStackedExpertsAsIntoOthers) {
  const std::filesystem::path moe = converted("drop"), together = stacked(moe);
  for (const char* name : {"upmoe.json", "upmoe-recipe.toml", "README.md"})
    test::write_file(together / name, test::read_file(moe / name));
  const Receipt found = receipt(together);
  EXPECT_EQ(broken(found), std::vector<std::string>{});
  ASSERT_EQ(found.notes.size(), 1u);
  EXPECT_TRUE(found.notes[0].starts_with("the weights lie in other files, or under other headers"))
      << found.notes[0];
  EXPECT_EQ(found.kept[1][2].whole, F / 2);
  EXPECT_TRUE(found.not_identical.empty());
}

TEST_F(ReceiptTest, SaysWhichTensorsHaveAnotherType) {
  const std::filesystem::path moe = converted("copy");
  test::make_tiny_llama(dense(), {.dtype = Dtype::f32});
  const Receipt found = receipt(moe);
  EXPECT_EQ(found.dtypes.at("F32 to BF16"), 2 * (3 * kExperts + 6) + 3);
  EXPECT_EQ(found.covered, (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(found.not_identical[0].what, "is BF16 instead of F32");
}

TEST_F(ReceiptTest, RefusesModelsThatDoNotBelongTogether) {
  const std::filesystem::path moe = converted("copy");
  test::make_tiny_llama(folder_ / "deeper", {.layers = 3});
  EXPECT_TRUE(test::fails_with([&] { make_receipt(moe, folder_ / "deeper"); },
                               {"deeper", "3 of 32", "was not converted from that model"}));
  EXPECT_TRUE(test::fails_with([&] { make_receipt(dense(), dense()); }, {"is not a Mixture of Experts"}));
  EXPECT_THROW(make_receipt(moe, moe), Error);
}

}  // namespace
}  // namespace upmoe
