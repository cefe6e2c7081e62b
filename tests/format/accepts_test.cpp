// What a reader must take, and what comes out of it; tests/format/refuses_test.cpp has the rest.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/format/raw_file.h"
#include "tests/temp_folder.h"
#include "tests/tiny.h"
#include "upmoe/base/error.h"
#include "upmoe/format/safetensors.h"

namespace upmoe {
namespace {

using test::parse;
using test::raw_file;

bool equal(const TensorInfo& a, const TensorInfo& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.begin == b.begin && a.end == b.end;
}

TEST(Safetensors, ReadsTheExampleOfTheFormat) {
  const SafetensorsHeader header = parse(
      raw_file(R"({"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}})",
               std::string(12, 'x')));
  ASSERT_EQ(header.tensors.size(), 1u);
  EXPECT_EQ(header.tensors[0].name, "w");
  EXPECT_EQ(header.tensors[0].dtype, Dtype::bf16);
  EXPECT_EQ(header.tensors[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(header.tensors[0].begin, 0u);
  EXPECT_EQ(header.tensors[0].bytes(), 12u);
}

TEST(Safetensors, TakesAFileWithoutTensors) {
  EXPECT_TRUE(parse(raw_file("{}")).tensors.empty());
  EXPECT_TRUE(parse(raw_file(R"({"__metadata__":{}})")).tensors.empty());
}

TEST(Safetensors, TakesATensorWithoutElements) {
  const auto header = parse(raw_file(R"({"a":{"dtype":"F32","shape":[2,0],"data_offsets":[0,0]},
                                         "b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},
                                         "c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                                     "xxxx"));
  EXPECT_EQ(header.tensors.size(), 3u);
}

TEST(Safetensors, TakesAScalar) {
  const auto header = parse(raw_file(R"({"a":{"dtype":"F64","shape":[],"data_offsets":[0,8]}})", "12345678"));
  EXPECT_TRUE(header.tensors[0].shape.empty());
  EXPECT_EQ(header.tensors[0].bytes(), 8u);
}

TEST(Safetensors, TakesEveryDtype){
#define UPMOE_CHECK(id, name, bits)                                                                       \
  {                                                                                                       \
    const auto header = parse(raw_file(                                                                   \
        fmt::format(R"({{"w":{{"dtype":"{}","shape":[4],"data_offsets":[0,{}]}}}})", name, bits * 4 / 8), \
        std::string(bits * 4 / 8, 'x')));                                                                 \
    EXPECT_EQ(header.tensors[0].dtype, Dtype::id);                                                        \
  }
    UPMOE_DTYPES(UPMOE_CHECK)
#undef UPMOE_CHECK
}

TEST(Safetensors, TakesWhiteSpaceAroundTheHeader) {
  EXPECT_EQ(parse(raw_file(" \n\t{}   \r\n")).data_begin, 8 + 10u);
}

TEST(Safetensors, SortsTensorsByTheirPlace) {
  const auto header = parse(raw_file(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},
                                         "c":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},
                                         "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                                     "xxxx"));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name + header.tensors[1].name + header.tensors[2].name, "abc");
}

TEST(Safetensors, IgnoresUnknownFieldsWhateverTheyHold) {
  for (const std::string value :
       {"null", "true", "-1", "1.5", "18446744073709551615", "\"text\"", "[]", "{}", "[1,[2,{\"dtype\":3}]]",
        "{\"shape\":[\"x\"],\"data_offsets\":{\"a\":[null]}}", "{\"a\":1,\"a\":2}"}) {
    for (const std::string& json :
         {R"({"w":{"extra":)" + value + R"(,"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":)" + value + "}}"})
      EXPECT_EQ(parse(raw_file(json, "x")).tensors.size(), 1u) << json;
  }
}

TEST(Safetensors, ReadsNamesWithEveryCharacterOfJson) {
  const auto header = parse(raw_file(
      R"({"\u0000\u001b\"\\\/é𝛾":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.tensors[0].name, std::string("\0\x1b\"\\/é𝛾", 11));
  EXPECT_EQ(header.tensors[1].name, "");
}

TEST(Safetensors, GivesTheDataOfATensor) {
  const test::TempFolder folder;
  const std::vector<test::Tensor> tensors = {{"a", Dtype::u8, {2}, {std::byte{1}, std::byte{2}}},
                                             {"b", Dtype::u8, {1}, {std::byte{3}}}};
  test::write_safetensors(folder / "m.safetensors", tensors);
  const SafetensorsFile file(folder / "m.safetensors");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.data(file.tensors()[1])[0], std::byte{3});
  EXPECT_EQ(file.data(file.tensors()[0]).size(), 2u);
}

TEST(SafetensorsWriter, BeginsTheDataAtAMultipleOf4096) {
  std::vector<TensorInfo> tensors;
  for (std::uint64_t i = 0; i < 300; ++i) {
    const std::string header = safetensors_header(tensors);
    ASSERT_EQ(header.size() % 4096, 0u);
    ASSERT_EQ(header[8], '{');
    ASSERT_EQ(parse(header + std::string(i, 'x')).data_begin, header.size());
    tensors.push_back({fmt::format("t{}", i), Dtype::u8, {1}, i, i + 1});
  }
}

TEST(SafetensorsWriter, WritesTheFormatThatTransformersAsksFor) {
  const std::string header = safetensors_header({});
  EXPECT_EQ(nlohmann::json::parse(header.substr(8)),
            nlohmann::json::parse(R"({"__metadata__":{"format":"pt"}})"));
}

TEST(SafetensorsWriter, RefusesAHeaderThatNoReaderTakes) {
  const std::vector<TensorInfo> tensors = {{std::string(kMaxHeaderBytes, 'n'), Dtype::u8, {0}, 0, 0}};
  EXPECT_THROW(safetensors_header(tensors), Error);
}

// Any list of tensors whose data lies end to end, with names of any characters.
std::vector<TensorInfo> arbitrary_tensors() {
  static constexpr Dtype kDtypes[] = {
#define UPMOE_ENUMERATOR(id, name, bits) Dtype::id,
      UPMOE_DTYPES(UPMOE_ENUMERATOR)
#undef UPMOE_ENUMERATOR
  };
  const auto character = rc::gen::element<std::string>("a", "b", ".", "0", "\"", "\\", "/", "\n",
                                                       std::string(1, '\0'), "\x7f", "é", "重", "𝛾", " ");
  std::vector<TensorInfo> tensors;
  std::uint64_t at = 0;
  for (int i = *rc::gen::inRange(0, 20); i > 0; --i) {
    TensorInfo tensor{.name = std::to_string(i)};  // so that no two are equal
    for (const std::string& c : *rc::gen::container<std::vector<std::string>>(character)) tensor.name += c;
    tensor.dtype = *rc::gen::elementOf(std::vector<Dtype>(std::begin(kDtypes), std::end(kDtypes)));
    tensor.shape = *rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 5));
    if (tensor.shape.size() > 6) tensor.shape.resize(6);
    if (bits(tensor.dtype) % 8 != 0) tensor.shape.push_back(4);
    tensor.begin = at;
    tensor.end = at += tensor_bytes(tensor.dtype, tensor.shape, "x");
    tensors.push_back(tensor);
  }
  return tensors;
}

RC_GTEST_PROP(SafetensorsWriter, WritesWhatTheReaderReads, ()) {
  const std::vector<TensorInfo> tensors = arbitrary_tensors();
  const std::string header = safetensors_header(tensors);
  RC_ASSERT(header == safetensors_header(tensors));
  const std::uint64_t data = tensors.empty() ? 0 : tensors.back().end;
  const SafetensorsHeader read = parse(header + std::string(data, 'x'));
  RC_ASSERT(read.data_begin == header.size());
  RC_ASSERT(read.tensors.size() == tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) RC_ASSERT(equal(read.tensors[i], tensors[i]));
}

// Whatever a broken byte makes of a file: tensors that lie inside it, or an Error.
void parse_or_refuse(const std::string& file) {
  try {
    const SafetensorsHeader header = parse(file);
    std::uint64_t end = header.data_begin;
    for (const TensorInfo& tensor : header.tensors) {
      RC_ASSERT(header.data_begin + tensor.begin == end);
      end = header.data_begin + tensor.end;
    }
    RC_ASSERT(end == file.size());
  } catch (const Error&) {
  }
}

RC_GTEST_PROP(Safetensors, SurvivesAnyChangeOfAByte, ()) {
  const std::vector<TensorInfo> tensors = arbitrary_tensors();
  const std::string header = safetensors_header(tensors);
  // Most of the header is padding: the changes go where something is.
  const std::size_t used = header.find_last_not_of(' ') + 1;
  const std::string file = raw_file(std::string_view(header).substr(8, used - 8),
                                    std::string(tensors.empty() ? 0 : tensors.back().end, 'x'));
  parse_or_refuse(file);
  for (int i = 0; i < 50; ++i) {
    std::string changed = file;
    changed[*rc::gen::inRange<std::size_t>(0, used)] = *rc::gen::arbitrary<char>();
    parse_or_refuse(changed);
  }
}

TEST(Safetensors, SurvivesEveryChangeOfAByteInASmallFile) {
  const std::string file = raw_file(R"({"w":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}})", "xy");
  for (std::size_t i = 0; i < file.size(); ++i)
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = file;
      changed[i] = static_cast<char>(byte);
      parse_or_refuse(changed);
    }
}

TEST(Safetensors, RefusesAFileThatEndsAnywhereTooEarly) {
  const std::string file = raw_file(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "12345678");
  for (std::size_t size = 0; size < file.size(); ++size)
    EXPECT_THROW(parse(file.substr(0, size)), Error) << size;
  EXPECT_EQ(parse(file).tensors.size(), 1u);
}

}  // namespace
}  // namespace upmoe
