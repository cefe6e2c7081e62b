// Every rule of the reference reader (safetensors 0.8, tensor.rs) and the attacks of its test suite. Each
// message must name the file and the tensor, what was found and what was expected.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "tests/fails_with.h"
#include "tests/format/raw_file.h"
#include "tests/temp_folder.h"

namespace upmoe {
namespace {

using test::fails_with;
using test::parse;
using test::raw_file;

testing::AssertionResult refused(const std::string& file, std::initializer_list<std::string_view> parts) {
  const auto result = fails_with([&] { parse(file); }, parts);
  return result ? fails_with([&] { parse(file); }, {"m.safetensors: "}) : result;
}

// One tensor 'w' of two bytes, with a field replaced.
std::string with_dtype(const std::string& value) {
  return raw_file(R"({"w":{"dtype":)" + value + R"(,"shape":[2],"data_offsets":[0,2]}})", "xy");
}
std::string with_shape(const std::string& value) {
  return raw_file(R"({"w":{"dtype":"U8","shape":)" + value + R"(,"data_offsets":[0,2]}})", "xy");
}
std::string with_offsets(const std::string& value) {
  return raw_file(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":)" + value + "}}", "xy");
}

TEST(Safetensors, RefusesFewerThanEightBytes) {
  EXPECT_TRUE(refused("", {"0 bytes", "too few", "download complete?"}));
  EXPECT_TRUE(refused("1234567", {"7 bytes", "too few"}));
}

TEST(Safetensors, RefusesAHugeHeader) {
  EXPECT_TRUE(refused(std::string(8, '\xff') + "{}",
                      {"18446744073709551615 bytes", "at most 100000000", "is it a safetensors file?"}));
  std::string file = raw_file("{}");
  const std::uint64_t length = kMaxHeaderBytes + 1;
  std::memcpy(file.data(), &length, 8);
  EXPECT_TRUE(refused(file, {"100000001 bytes", "at most 100000000"}));
}

TEST(Safetensors, RefusesAHeaderThatIsLongerThanTheFile) {
  std::string file = raw_file("{}");
  file[0] = 3;
  EXPECT_TRUE(refused(file, {"claims 3 bytes", "only 10 bytes", "download complete?"}));
  file = raw_file(std::string(1000, ' '));
  EXPECT_TRUE(refused(file.substr(0, 100), {"claims 1000 bytes", "only 100 bytes"}));
}

TEST(Safetensors, RefusesAHeaderThatIsNotUtf8) {
  EXPECT_TRUE(refused(raw_file("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"),
                      {"not valid JSON at byte", "UTF-8"}));
  EXPECT_TRUE(refused(raw_file("{\"__metadata__\":{\"a\":\"\xc0\xaf\"}}"), {"not valid JSON"}));
}

TEST(Safetensors, RefusesAHeaderThatIsNotJson) {
  EXPECT_TRUE(refused(raw_file("version https://git-lfs.github.com/spec/v1"), {"does not begin with '{'"}));
  EXPECT_TRUE(refused(raw_file("PK\x03\x04"), {"does not begin with '{'"}));
  EXPECT_TRUE(refused(raw_file("    "), {"does not begin with '{'"}));
  EXPECT_TRUE(refused(raw_file(""), {"does not begin with '{'"}));
  EXPECT_TRUE(refused(raw_file("\xEF\xBB\xBF{}"), {"does not begin with '{'"}));
  EXPECT_TRUE(refused(raw_file("[]"), {"does not begin with '{'"}));
  for (const std::string json : {"{", "{}}", "{} {}", "{}x", "{a:1}", R"({"w":})", R"({"__metadata__":{},})",
                                 "{/**/}", "{'w':{}}", R"({"__metadata__":{"a":"\x"}})",
                                 "{\"__metadata__\":{\"a\":\"\n\"}}", R"({"__metadata__":{"a":"\ud800"}})"})
    EXPECT_TRUE(refused(raw_file(json), {"not valid JSON at byte"})) << json;
}

TEST(Safetensors, RefusesZeroBytesInTheHeader) {
  EXPECT_TRUE(refused(raw_file(std::string("{}\0", 3)), {"zero byte at 10"}));
  EXPECT_TRUE(refused(raw_file(std::string("{\"a\0\":1}", 8)), {"zero byte at 11"}));
}

TEST(Safetensors, RefusesTwoTensorsOfOneName) {
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                                   "v":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},
                                   "w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                               "xy"),
                      {"tensor 'w'", "twice"}));
  // The same name spelt in two ways.
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},
                                   "\u0077":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
                      {"tensor 'w'", "twice"}));
}

TEST(Safetensors, RefusesAFieldThatStandsTwice) {
  EXPECT_TRUE(refused(with_dtype(R"("U8","dtype":"U8")"), {"tensor 'w'", "dtype appears twice"}));
  EXPECT_TRUE(refused(with_shape(R"([2],"shape":[2])"), {"tensor 'w'", "shape appears twice"}));
  EXPECT_TRUE(
      refused(with_offsets(R"([0,2],"data_offsets":[0,2])"), {"tensor 'w'", "data_offsets appears twice"}));
}

TEST(Safetensors, RefusesMetadataThatStandsTwice) {
  EXPECT_TRUE(refused(raw_file(R"({"__metadata__":{},"__metadata__":{}})"), {"__metadata__ appears twice"}));
}

TEST(Safetensors, RefusesAMissingField) {
  EXPECT_TRUE(refused(raw_file(R"({"w":{}})"), {"tensor 'w'", "no dtype"}));
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"U8","data_offsets":[0,0]}})"), {"tensor 'w'", "no shape"}));
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"U8","shape":[0]}})"), {"tensor 'w'", "no data_offsets"}));
  // A field of the tensor in front of it doesn't count.
  EXPECT_TRUE(
      refused(raw_file(R"({"v":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{}})"), {"tensor 'w'"}));
}

TEST(Safetensors, RefusesAnEntryThatIsNotAnObject) {
  for (const std::string value : {"null", "true", "1", "-1", "1.5", "\"U8\"", "[]", "[{}]"})
    EXPECT_TRUE(refused(raw_file(R"({"w":)" + value + "}"), {"'w'", "expected an object"})) << value;
}

TEST(Safetensors, RefusesMetadataThatIsNotStrings) {
  for (const std::string value : {"null", "true", "1", "-1", "1.5", "[]", "{}"})
    EXPECT_TRUE(refused(raw_file(R"({"__metadata__":{"format":)" + value + "}}"),
                        {"__metadata__", "format", "a string"}))
        << value;
  for (const std::string value : {"1", "\"pt\"", "[]"})
    EXPECT_TRUE(refused(raw_file(R"({"__metadata__":)" + value + "}"), {"__metadata__", "an object"}))
        << value;
}

TEST(Safetensors, RefusesAnUnknownDtype) {
  EXPECT_TRUE(refused(with_dtype(R"("Q4_1")"), {"tensor 'w'", "unknown dtype 'Q4_1'"}));
  EXPECT_TRUE(refused(with_dtype(R"("f32")"), {"tensor 'w'", "unknown dtype 'f32'"}));
  EXPECT_TRUE(refused(with_dtype(R"("\u001b[2J")"), {"tensor 'w'", "\\x1b[2J"}));
  for (const std::string value : {"null", "true", "8", "-8", "0.5", "[]", "{}", R"(["U8"])"})
    EXPECT_TRUE(refused(with_dtype(value), {"dtype", "'w'", "expected a string"})) << value;
}

TEST(Safetensors, RefusesNumbersThatAreNotWholeAndPositive) {
  for (const std::string value : {"-1", "-0", "1.0", "1e0", "1.5", "18446744073709551616", "1e30", "\"2\"",
                                  "null", "true", "[2]", "{}"}) {
    EXPECT_TRUE(refused(with_shape("[" + value + "]"), {"shape", "'w'", "expected a whole number"})) << value;
    EXPECT_TRUE(
        refused(with_offsets("[0," + value + "]"), {"data_offsets", "'w'", "expected a whole number"}))
        << value;
  }
  EXPECT_TRUE(refused(with_shape("[1e999]"), {"not valid JSON"}));
  EXPECT_TRUE(refused(with_shape("[02]"), {"not valid JSON"}));
}

TEST(Safetensors, RefusesAShapeThatIsNotAList) {
  for (const std::string value : {"null", "true", "2", "-2", "0.5", "\"2\"", "{}", R"({"0":2})"})
    EXPECT_TRUE(refused(with_shape(value), {"shape", "'w'", "expected a list"})) << value;
}

TEST(Safetensors, RefusesOffsetsThatAreNotTwo) {
  EXPECT_TRUE(refused(with_offsets("[]"), {"'w'", "data_offsets has 0 numbers", "expected 2"}));
  EXPECT_TRUE(refused(with_offsets("[0,2,2]"), {"'w'", "data_offsets has 3 numbers", "expected 2"}));
}

TEST(Safetensors, RefusesOffsetsThatRunBackwards) {
  EXPECT_TRUE(refused(raw_file(R"({"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                                   "w":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})",
                               "xy"),
                      {"tensor 'w'", "ends at byte 1", "before it begins at 2"}));
  // So that its size would be 2 modulo 2^64.
  EXPECT_TRUE(refused(
      raw_file(
          R"({"v":{"dtype":"U8","shape":[18446744073709551614],"data_offsets":[0,18446744073709551614]}})",
          "xy"),
      {"tensor 'v'", "2^63"}));
}

TEST(Safetensors, RefusesAHole) {
  EXPECT_TRUE(refused(raw_file(R"({"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                                   "w":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                               "xyz"),
                      {"tensor 'w'", "begins at byte 2", "expected 1"}));
}

TEST(Safetensors, RefusesOverlappingTensors) {
  EXPECT_TRUE(refused(raw_file(R"({"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                                   "w":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                               "xyz"),
                      {"tensor 'w'", "begins at byte 1", "expected 2"}));
}

TEST(Safetensors, RefusesDataThatDoesNotBeginAtZero) {
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xy"),
                      {"tensor 'w'", "begins at byte 1", "expected 0"}));
}

TEST(Safetensors, RefusesWhatFollowsTheLastTensor) {
  EXPECT_TRUE(
      refused(with_shape("[2]") + "extra_bogus_data_for_polyglot_file", {"36 bytes of data", "describes 2"}));
  EXPECT_TRUE(refused(raw_file("{}", "x"), {"1 bytes of data", "describes 0"}));
}

TEST(Safetensors, RefusesAFileThatLacksItsLastTwoBytes) {
  const std::string file =
      raw_file(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", std::string(14, 'x'));
  EXPECT_TRUE(refused(file, {"14 bytes of data", "describes 16", "download complete?"}));
}

TEST(Safetensors, RefusesOffsetsThatDisagreeWithTheShape) {
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,4]}})", "xxxx"),
                      {"tensor 'w'", "F32 [2, 2] takes 16 bytes", "data_offsets give 4"}));
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0,8]}})", "xxxxxxxx"),
                      {"tensor 'w'", "F32 [] takes 4 bytes", "data_offsets give 8"}));
}

TEST(Safetensors, RefusesPartOfAByte) {
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", "xy"),
                      {"tensor 'w'", "[3] of F4", "not a whole number of bytes"}));
  EXPECT_TRUE(refused(raw_file(R"({"w":{"dtype":"F6_E2M3","shape":[3],"data_offsets":[0,2]}})", "xy"),
                      {"tensor 'w'", "not a whole number of bytes"}));
}

TEST(Safetensors, RefusesAShapeThatOverflows) {
  for (const std::string shape : {"[2,9223372036854775807]", "[4294967296,4294967296]",    // to 0
                                  "[4294967296,4294967296,0]", "[4611686018427387904,4]",  // to 0
                                  "[4611686018427387905,4,1]",                             // to 4
                                  "[2305843009213693953]", "[9223372036854775807]"})       // in bits only
    EXPECT_TRUE(
        refused(raw_file(R"({"w":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,4]}})", "xxxx"),
                {"tensor 'w'", "of F32 overflows 64 bits"}))
        << shape;
  EXPECT_TRUE(refused(
      raw_file(R"({"w":{"dtype":"F32","shape":[2,18446744073709551614],"data_offsets":[0,4]}})", "xxxx"),
      {"tensor 'w'", "18446744073709551614", "2^63"}));
}

TEST(Safetensors, RefusesAnAbsurdRank) {
  std::string shape = "[1";
  for (int i = 0; i < 100; ++i) shape += ",1";
  EXPECT_TRUE(refused(with_shape(shape + "]"), {"tensor 'w'", "shape has more than 64 numbers"}));
}

TEST(Safetensors, RefusesADepthBomb) {
  const std::string deep(1'000'000, '[');
  EXPECT_TRUE(refused(raw_file(deep), {"does not begin with '{'"}));
  EXPECT_TRUE(refused(raw_file(R"({"w":)" + deep), {"'w'", "expected an object"}));
  EXPECT_TRUE(refused(raw_file(R"({"w":{"extra":)" + deep), {"'w'", "nested deeper than 128"}));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  EXPECT_TRUE(refused(raw_file(R"({"w":{"extra":)" + objects), {"'w'", "nested deeper than 128"}));
  EXPECT_TRUE(refused(raw_file(objects), {"'a'"}));
}

// attacks/ of the reference: many tensors that share their data, so that a reader fills its memory.
TEST(Safetensors, RefusesManyTensorsInOnePlaceInNoTime) {
  std::string json = "{";
  for (int i = 0; i < 100'000; ++i)
    json +=
        fmt::format(R"({}"t{}":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", i == 0 ? "" : ",", i);
  const std::string file = raw_file(json + "}", std::string(16, 'x'));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(refused(file, {"tensor 't1'", "begins at byte 0", "expected 16"}));
  // 0.3 s for both parses on 2026-11-24; the bound is for sanitizers and busy machines.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
}

TEST(Safetensors, ShowsHostileNamesAsPlainText) {
  EXPECT_TRUE(
      refused(raw_file(R"({"\u001b[2J\u202e":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xy"),
              {"'\\x1b[2J\\xe2\\x80\\xae'"}));
  const std::string file = raw_file("[]");
  EXPECT_TRUE(
      fails_with([&] { parse_safetensors(std::as_bytes(std::span(file)), "\x1b[2J"); }, {"\\x1b[2J: "}));
  EXPECT_TRUE(refused(raw_file(R"({")" + std::string(100'000, 'n') + R"(":{}})"), {"nnn...'"}));
}

TEST(SafetensorsFile, NamesTheFileOnTheDisk) {
  const test::TempFolder folder;
  EXPECT_TRUE(fails_with([&] { SafetensorsFile file(test::write_file(folder / "m.safetensors", "")); },
                         {"/m.safetensors: 0 bytes"}));
  EXPECT_TRUE(
      fails_with([&] { SafetensorsFile file(folder / "gone.safetensors"); }, {"/gone.safetensors: "}));
}

}  // namespace
}  // namespace upmoe
