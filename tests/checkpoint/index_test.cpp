#include "upmoe/checkpoint/index.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/fails_with.h"

namespace upmoe {
namespace {

using test::fails_with;

constexpr const char* kWhere = "x/model.safetensors.index.json";

std::string index_with_file(const std::string& name) {
  return nlohmann::json({{"weight_map", {{"w", name}}}}).dump();
}

TEST(Index, GivesTheFileOfEveryTensor) {
  const WeightMap map =
      parse_index(R"({"metadata":{"total_size":12},"weight_map":{"b":"model-00002-of-00002.safetensors",
                                        "a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})",
                  kWhere);
  EXPECT_EQ(map.size(), 3u);
  EXPECT_EQ(map.at("c"), "model-00002-of-00002.safetensors");
}

TEST(Index, TakesAnyPlainName) {
  for (const std::string name : {"a.safetensors", "weights of größe.safetensors", "..safetensors",
                                 "a..b.safetensors", "-rf.safetensors"})
    EXPECT_EQ(parse_index(index_with_file(name), kWhere).at("w"), name);
}

TEST(Index, RefusesNamesThatCouldLeaveTheFolder) {
  for (const std::string name :
       {"", ".", "..", "../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a/../../x.safetensors",
        "./x.safetensors", "..\\x.safetensors", "C:\\x.safetensors", "x\n.safetensors", "x\x7f.safetensors",
        "\x1b[2J.safetensors", "\u202Ex.safetensors"})
    EXPECT_TRUE(fails_with([&] { parse_index(index_with_file(name), kWhere); },
                           {kWhere, "'w'", "'" + printable(name) + "'", "plain name"}))
        << printable(name);
  EXPECT_TRUE(fails_with([] { parse_index(index_with_file(std::string(300, 'x') + ".safetensors"), kWhere); },
                         {"plain name"}));
  EXPECT_TRUE(fails_with([] { parse_index(index_with_file(std::string("x\0.safetensors", 14)), kWhere); },
                         {"x\\x00.safetensors"}));
}

TEST(Index, RefusesFilesThatAreNotSafetensors) {
  for (const std::string name :
       {"pytorch_model.bin", "x", "x.safetensors.bin", "x.SAFETENSORS", "config.json"})
    EXPECT_TRUE(fails_with([&] { parse_index(index_with_file(name), kWhere); },
                           {kWhere, "'w'", "'" + name + "'", ".safetensors"}))
        << name;
}

TEST(Index, RefusesAnotherForm) {
  for (const std::string text : {"{}", R"({"weight_map":null})", R"({"weight_map":[]})",
                                 R"({"weight_map":"x"})", R"({"weight_map":1})"})
    EXPECT_TRUE(fails_with([&] { parse_index(text, kWhere); }, {kWhere, "no object 'weight_map'"})) << text;
  EXPECT_TRUE(
      fails_with([] { parse_index(R"({"weight_map":{}})", kWhere); }, {kWhere, "weight_map is empty"}));
  for (const std::string value : {"null", "1", "true", "[]", "{}", "[\"x.safetensors\"]"})
    EXPECT_TRUE(fails_with([&] { parse_index(R"({"weight_map":{"w":)" + value + "}}", kWhere); },
                           {kWhere, "'w'", "not a string"}))
        << value;
}

TEST(Index, RefusesATensorThatStandsTwice) {
  EXPECT_TRUE(
      fails_with([] { parse_index(R"({"weight_map":{"w":"a.safetensors","w":"b.safetensors"}})", kWhere); },
                 {kWhere, "'w' appears twice"}));
}

TEST(Index, RefusesWhatIsNotJson) {
  EXPECT_TRUE(fails_with([] { parse_index("", kWhere); }, {kWhere, "not valid JSON"}));
  EXPECT_TRUE(fails_with([] { parse_index("[]", kWhere); }, {kWhere, "an object"}));
}

TEST(IndexText, IsWhatHuggingFaceWrites) {
  EXPECT_EQ(index_text({{"b", "2.safetensors"}, {"a", "1.safetensors"}}, 12, 6),
            R"({
  "metadata": {
    "total_parameters": 6,
    "total_size": 12
  },
  "weight_map": {
    "a": "1.safetensors",
    "b": "2.safetensors"
  }
}
)");
}

TEST(IndexText, IsReadBack) {
  const WeightMap map = {{"a\"\\\n", "1.safetensors"}, {"é", "2.safetensors"}};
  EXPECT_EQ(parse_index(index_text(map, 1, 1), kWhere), map);
}

}  // namespace
}  // namespace upmoe
