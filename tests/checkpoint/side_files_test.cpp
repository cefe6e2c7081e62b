#include "upmoe/checkpoint/side_files.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/fails_with.h"
#include "tests/temp_folder.h"
#include "upmoe/base/text.h"

namespace upmoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Lines = std::vector<std::string>;
using test::fails_with;
using test::write_file;

std::vector<std::string> names_of(const std::vector<SideFile>& files) {
  std::vector<std::string> out;
  for (const SideFile& file : files) out.push_back(file.name);
  return out;
}

TEST(SideFiles, AreWhatBelongsToACheckpoint) {
  const test::TempFolder folder;
  const std::vector<std::string> carried = {
      "LICENSE",         "LICENSE.llama3",          "LICENSE.txt",         "NOTICE",
      "USE_POLICY.md",   "added_tokens.json",       "chat_template.jinja", "generation_config.json",
      "merges.txt",      "special_tokens_map.json", "tekken.json",         "tokenizer.json",
      "tokenizer.model", "tokenizer_config.json",   "vocab.json"};
  for (const std::string& name : carried) write_file(folder / name, "{}");
  for (const std::string name :
       {"config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
        "consolidated.00.pth", "adapter_config.json", "modeling_x.py", "README.md", "training_args.bin",
        "upmoe.json", ".gitattributes"})
    write_file(folder / name, "{}");
  write_file(folder / "original" / "tokenizer.model", "x");
  write_file(folder / "additional_chat_templates" / "tool_use.jinja", "{{ tools }}");
  write_file(folder / "additional_chat_templates" / "evil.py", "x");
  std::vector<std::string> expected = carried;
  expected.push_back("additional_chat_templates/tool_use.jinja");
  EXPECT_EQ(names_of(side_files(Folder(folder.path()))), expected);
}

TEST(SideFiles, AreCarriedByteForByte) {
  const test::TempFolder folder;
  const std::string bytes("\0\xff\r\n{", 5);
  write_file(folder / "tokenizer.model", bytes);
  write_file(folder / "tokenizer_config.json", "{ \"tokenizer_class\":\"LlamaTokenizer\" }");
  const std::vector<SideFile> files = side_files(Folder(folder.path()));
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].text, bytes);
  EXPECT_EQ(files[1].text, "{ \"tokenizer_class\":\"LlamaTokenizer\" }");
  EXPECT_FALSE(files[0].changed);
  EXPECT_FALSE(files[1].changed);
}

TEST(SideFiles, SayWhichOfThemAreChanged) {
  const test::TempFolder folder;
  write_file(folder / "tokenizer_config.json", R"({"tokenizer_class":"TokenizersBackend"})");
  const std::vector<SideFile> files = side_files(Folder(folder.path()));
  ASSERT_EQ(files.size(), 1u);
  EXPECT_TRUE(files[0].changed);
}

TEST(SideFiles, RefuseALinkThatLeadsOut) {
  const test::TempFolder folder;
  write_file(folder / "secret", "secret");
  fs::create_directory(folder / "model");
  fs::create_symlink("../secret", folder / "model" / "LICENSE");
  EXPECT_TRUE(
      fails_with([&] { side_files(Folder(folder / "model")); }, {"/LICENSE", "leads out of the folder"}));
}

TEST(SideFiles, AreNotLeftOutBecauseTheyAreNoFiles) {  // a model without its tokenizer would be no answer
  for (const std::string name : {"tokenizer.json", "LICENSE"}) {
    const test::TempFolder folder;
    ASSERT_EQ(::mkfifo((folder / name).c_str(), 0600), 0);
    EXPECT_TRUE(fails_with([&] { side_files(Folder(folder.path())); }, {"/" + name, "not a regular file"}));
    fs::remove(folder / name);
    fs::create_symlink("nowhere", folder / name);
    EXPECT_TRUE(fails_with([&] { side_files(Folder(folder.path())); }, {"'" + name + "'", "not there"}));
    fs::remove(folder / name);
    fs::create_directory(folder / name);
    EXPECT_TRUE(side_files(Folder(folder.path())).empty());
  }
}

TEST(SideFiles, RefuseMoreThanFitsInMemory) {
  const test::TempFolder folder;
  for (const std::string name : {"LICENSE1", "LICENSE2", "LICENSE3"}) {
    write_file(folder / name, "");
    fs::resize_file(folder / name, 100u << 20);
  }
  EXPECT_TRUE(fails_with([&] { side_files(Folder(folder.path())); }, {"'LICENSE3'", "more than 268.4 MB"}));
  fs::resize_file(folder / "LICENSE1", 1ull << 40);
  EXPECT_TRUE(fails_with([&] { side_files(Folder(folder.path())); }, {"/LICENSE1", "1099511627776 bytes"}));
}

TEST(SideFiles, DoNotFollowAFolderThatIsALink) {
  const test::TempFolder folder;
  write_file(folder / "elsewhere" / "secret.jinja", "secret");
  fs::create_directory(folder / "model");
  fs::create_directory_symlink("../elsewhere", folder / "model" / "additional_chat_templates");
  EXPECT_TRUE(side_files(Folder(folder / "model")).empty());
}

TEST(SideFiles, OfAHubCacheAreLinksIntoItsBlobs) {
  const test::TempFolder folder;
  const fs::path snapshot = folder / "models--x" / "snapshots" / "rev";
  write_file(folder / "models--x" / "blobs" / "1", "text");
  fs::create_directories(snapshot / "additional_chat_templates");
  fs::create_symlink("../../blobs/1", snapshot / "LICENSE");
  fs::create_symlink("../../../blobs/1", snapshot / "additional_chat_templates" / "rag.jinja");
  const std::vector<SideFile> files = side_files(Folder(snapshot));
  EXPECT_EQ(names_of(files), (Lines{"LICENSE", "additional_chat_templates/rag.jinja"}));
  EXPECT_EQ(files.back().text, "text");
}

TEST(ReadableByBoth, LeavesWhatBothReadAsItIs) {
  for (const std::string text :
       {R"({"tokenizer_class":"LlamaTokenizer"})", R"({ })", R"({"extra_special_tokens":{"image":"<i>"}})",
        "{\"tokenizer_class\":\"PreTrainedTokenizerFast\"}\n\n"})
    EXPECT_EQ(readable_by_both(text, "x"), text);
}

TEST(ReadableByBoth, RewritesWhatTransformers5Writes) {
  const Json both = Json::parse(readable_by_both(
      R"({"backend":"tokenizers","bos_token":"<s>","extra_special_tokens":["<a>","<b>"],"is_local":true,
          "model_max_length":8192,"tokenizer_class":"TokenizersBackend"})",
      "x"));
  EXPECT_EQ(both, Json::parse(
                      R"({"bos_token":"<s>","additional_special_tokens":["<a>","<b>"],"model_max_length":8192,
                                  "model_input_names":["input_ids","attention_mask"],"tokenizer_class":"PreTrainedTokenizerFast"})"));
}

TEST(ReadableByBoth, KeepsTheOrderOfTheKeys) {
  const std::string both = readable_by_both(R"({"z":1,"tokenizer_class":"TokenizersBackend","a":2})", "x");
  EXPECT_LT(both.find("\"z\""), both.find("\"tokenizer_class\""));
  EXPECT_LT(both.find("\"tokenizer_class\""), both.find("\"a\""));
  EXPECT_EQ(both.back(), '\n');
}

TEST(ReadableByBoth, TakesTimeInProportionToItsText) {
  std::string text = R"({"tokenizer_class":"TokenizersBackend")";
  for (int i = 0; i < 200'000; ++i) text += fmt::format(R"(,"{}":{{}})", i);
  EXPECT_EQ(Json::parse(readable_by_both(text + "}", "x")).size(), 200'002u);
}

TEST(ReadableByBoth, KeepsWhatIsThereAlready) {
  const Json both = Json::parse(readable_by_both(
      R"({"tokenizer_class":"TokenizersBackend","model_input_names":["input_ids"],"additional_special_tokens":["<x>"],"extra_special_tokens":["<a>"]})",
      "x"));
  EXPECT_EQ(both["model_input_names"], Json::parse(R"(["input_ids"])"));
  EXPECT_EQ(both["additional_special_tokens"], Json::parse(R"(["<x>"])"));
}

TEST(ReadableByBoth, DropsAnEmptyList) {
  const Json both =
      Json::parse(readable_by_both(R"({"extra_special_tokens":[],"tokenizer_class":"LlamaTokenizer"})", "x"));
  EXPECT_EQ(both, Json::parse(R"({"tokenizer_class":"LlamaTokenizer"})"));
}

TEST(ReadableByBoth, IsDoneAfterOneTime) {
  const std::string once =
      readable_by_both(R"({"tokenizer_class":"TokenizersBackend","extra_special_tokens":["<a>"]})", "x");
  EXPECT_EQ(readable_by_both(once, "x"), once);
}

TEST(ReadableByBoth, RefusesHostileJson) {
  EXPECT_TRUE(fails_with([] { readable_by_both("[]", "x/tokenizer_config.json"); },
                         {"x/tokenizer_config.json", "an object"}));
  EXPECT_TRUE(fails_with([] { readable_by_both("{", "x"); }, {"x", "not valid JSON"}));
  EXPECT_TRUE(fails_with([] { readable_by_both(R"({"a":1,"a":2})", "x"); }, {"'a' appears twice"}));
  EXPECT_TRUE(
      fails_with([] { readable_by_both(R"({"a":)" + std::string(100'000, '['), "x"); }, {"nested deeper"}));
}

TEST(ReadableByBoth, NamesNoCodeToBeLoaded) {
  EXPECT_EQ(
      Json::parse(readable_by_both(
          R"({"auto_map":{"AutoTokenizer":["evil.Evil",null]},"a":[{"auto_map":1,"b":{"auto_map":{},"c":2}}]})",
          "x")),
      Json::parse(R"({"a":[{"b":{"c":2}}]})"));
  const std::string value = R"({"a":"auto_map"})";
  EXPECT_EQ(readable_by_both(value, "x"), value);
}

TEST(ReadableByBoth, TakesOddTypesAsTheyAre) {
  for (const std::string text :
       {R"({"tokenizer_class":7})", R"({"tokenizer_class":null,"extra_special_tokens":null})",
        R"({"extra_special_tokens":"x"})"})
    EXPECT_EQ(readable_by_both(text, "x"), text);
}

const Lines kKeys = {"license", "language", "base_model"};

TEST(CardLines, AreThoseOfTheKeysInTheOrderOfTheCard) {
  EXPECT_EQ(
      card_lines(
          "---\nlanguage:\n- en\n- de\ntags: [x]\nlicense: apache-2.0\nbase_model: a/b\n---\nlicense: body\n",
          kKeys),
      (Lines{"language:", "- en", "- de", "license: apache-2.0", "base_model: a/b"}));
  EXPECT_EQ(card_lines("---\r\nlicense: mit\r\n---\r\n", kKeys), Lines{"license: mit"});
}

TEST(CardLines, LeaveOutTheLinesOfOtherKeys) {
  EXPECT_EQ(
      card_lines("---\nwidget:\n- text: license\n  license: x\nlicense_name: y\nlicense: mit\n---\n", kKeys),
      Lines{"license: mit"});
  EXPECT_EQ(card_lines("---\n- license: x\nlicense: mit\n---\n", kKeys), Lines{"license: mit"});
}

TEST(CardLines, AreNoneWithoutAHeader) {
  EXPECT_EQ(card_lines("", kKeys), Lines{});
  EXPECT_EQ(card_lines("# Title\nlicense: mit\n", kKeys), Lines{});
  EXPECT_EQ(card_lines("\n---\nlicense: mit\n---\n", kKeys), Lines{});
  EXPECT_EQ(card_lines("---", kKeys), Lines{});
  EXPECT_EQ(card_lines("---\n---\nlicense: mit\n", kKeys), Lines{});
}

TEST(CardLines, AreNoneOfAHeaderThatDoesNotEnd) {
  EXPECT_EQ(card_lines("---\nlicense: mit\n# Title\nlanguage: English is what it speaks\n", kKeys), Lines{});
}

TEST(CardLines, TakeAKeyOnce) {  // twice is an error to the readers of a card
  EXPECT_EQ(card_lines("---\nlicense: mit\nlanguage:\n- en\nlicense: other\nlanguage:\n- de\n---\n", kKeys),
            (Lines{"license: mit", "language:", "- en"}));
}

TEST(CardLines, LeaveOutWhatIsNotPlainText) {
  EXPECT_EQ(card_lines("---\nlicense: mit\x1b[2J\nlanguage: en\n---\n", kKeys), Lines{"language: en"});
  EXPECT_EQ(card_lines("---\nlicense: \xff\nlanguage: \u202Een\nbase_model: a\tb\n---\n", kKeys), Lines{});
  EXPECT_EQ(card_lines(std::string("---\nlicense: m\0it\n---\n", 22), kKeys), Lines{});
  EXPECT_EQ(card_lines("---\nlicense: " + std::string(10'000, 'x') + "\n---\n", kKeys), Lines{});
}

TEST(CardLines, LeaveOutTheRestOfAKeyWithABadLine) {
  EXPECT_EQ(card_lines("---\nlanguage:\n- en\n- \x1b[2J\n- de\nlicense: mit\n---\n", kKeys),
            (Lines{"language:", "- en", "- de", "license: mit"}));
  EXPECT_EQ(card_lines("---\nlanguage: \x1b[2J\n- en\nlicense: mit\n---\n", kKeys), Lines{"license: mit"});
}

TEST(CardLines, LeaveOutAKeyThatIsNotPlainYaml) {
  EXPECT_EQ(card_lines("---\nlicense: [mit\nlanguage: \"en\nbase_model: a/b\n---\n", kKeys),
            Lines{"base_model: a/b"});
  EXPECT_EQ(card_lines("---\nlanguage:\n- en\n  - de\nlicense: mit\n---\n", kKeys), Lines{"license: mit"});
  EXPECT_EQ(card_lines("---\nlicense: [mit,\n  apache-2.0]\nlanguage: en\n---\n", kKeys),
            Lines{"language: en"});
}

RC_GTEST_PROP(CardLines, NeverEndTheHeaderOrHoldControlCharacters, (std::vector<std::string> parts)) {
  std::string card = "---\n";
  for (const std::string& part : parts)
    card += *rc::gen::element<std::string>("license: ", "language:\n- ", "", "---", " ") + part + "\n";
  for (const std::string& line : card_lines(card + "---\n", kKeys)) {
    RC_ASSERT(line != "---");
    RC_ASSERT(printable(line, 1000) == line);
  }
}

}  // namespace
}  // namespace upmoe
