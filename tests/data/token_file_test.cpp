#include "upmoe/data/token_file.h"

#include <gtest/gtest.h>

#include <limits>
#include <tuple>

#include "tests/data/token_files.h"
#include "tests/fails_with.h"

namespace upmoe {
namespace {

using namespace test;
using Ids = std::vector<std::int32_t>;
using Starts = std::vector<std::int64_t>;
using U16 = std::vector<std::uint16_t>;

Ids all_of(const TokenFile& file) {
  Ids out(std::size_t(file.size()));
  file.read(0, out);
  return out;
}

Starts starts_of(const TokenFile& file) {
  return {file.document_starts().begin(), file.document_starts().end()};
}

class TokenFileTest : public testing::Test {
 protected:
  TempFolder folder_;
  std::filesystem::path bin(const std::string& text) const { return write_file(folder_ / "t.bin", text); }
  std::filesystem::path pair(const MegatronIndex& index, const std::string& tokens) const {
    return write_megatron(folder_, "t", index, tokens);
  }
};

TEST_F(TokenFileTest, ReadsNanoGpt) {
  const TokenFile file(bin(bytes_of(U16{7, 65535, 0})));
  EXPECT_EQ(file.format(), TokenFormat::nano_gpt);
  EXPECT_EQ(all_of(file), (Ids{7, 65535, 0}));
  EXPECT_TRUE(file.document_starts().empty());
}

TEST_F(TokenFileTest, ReadsLlmcOfBothVersions) {
  const TokenFile gpt2(bin(llmc(20240520, 1, 2, bytes_of(U16{5, 50256}))));
  EXPECT_EQ(gpt2.format(), TokenFormat::llm_c);
  EXPECT_EQ(all_of(gpt2), (Ids{5, 50256}));
  const TokenFile llama(bin(llmc(20240801, 7, 2, bytes_of(std::vector<std::uint32_t>{5, 128255}))));
  EXPECT_EQ(all_of(llama), (Ids{5, 128255}));
}

TEST_F(TokenFileTest, ReadsMegatronOfEveryWholeType) {
  const auto read = [&]<class T>(std::uint8_t code, T) {
    return all_of(TokenFile(pair(index_of({2, 1}, code, sizeof(T)), bytes_of(std::vector<T>{1, 2, 100}))));
  };
  const Ids expected{1, 2, 100};
  EXPECT_EQ(read(1, std::uint8_t()), expected);
  EXPECT_EQ(read(2, std::int8_t()), expected);
  EXPECT_EQ(read(3, std::int16_t()), expected);
  EXPECT_EQ(read(4, std::int32_t()), expected);
  EXPECT_EQ(read(5, std::int64_t()), expected);
  EXPECT_EQ(read(8, std::uint16_t()), expected);
}

TEST_F(TokenFileTest, KnowsMegatronsDocumentsAndLeavesEmptyOnesOut) {
  // Sequences of 2, 0, 3, 1 tokens; documents: {2}, {}, {0, 3}, {1}, {}.
  MegatronIndex index = index_of({2, 0, 3, 1});
  index.documents = {0, 1, 1, 3, 4, 4};
  EXPECT_EQ(starts_of(TokenFile(pair(index, bytes_of(U16(6))))), (Starts{0, 2, 5}));
}

TEST_F(TokenFileTest, OfNoTokensIsEmpty) {
  EXPECT_EQ(TokenFile(bin(llmc(20240520, 1, 0, ""))).size(), 0);
  const TokenFile file(pair(index_of({}), ""));
  EXPECT_EQ(file.size(), 0);
  EXPECT_TRUE(file.document_starts().empty());
}

TEST_F(TokenFileTest, IsFoundByAnyNameOfThePair) {
  pair(index_of({3}), bytes_of(U16{1, 2, 3}));
  for (const char* name : {"t.bin", "t.idx", "t"}) {
    EXPECT_TRUE(is_token_file(folder_ / name));
    EXPECT_EQ(TokenFile(folder_ / name).size(), 3);
  }
  EXPECT_FALSE(is_token_file(write_file(folder_ / "t.txt", "text")));
  EXPECT_FALSE(is_token_file(folder_ / "gone"));
}

TEST_F(TokenFileTest, FindsDocumentsByTheTokenThatEndsThem) {
  const TokenFile file(bin(bytes_of(U16{5, 2, 2, 7, 2})));
  EXPECT_EQ(document_starts(file, 2), (Starts{0, 2, 3}));
  EXPECT_EQ(document_starts(file, 9), Starts{0});
}

TEST_F(TokenFileTest, FindsDocumentsThroughoutALongFile) {
  U16 ids(20000, 1);
  ids[8191] = ids[8192] = ids[19998] = 2;
  EXPECT_EQ(document_starts(TokenFile(bin(bytes_of(ids))), 2), (Starts{0, 8192, 8193, 19999}));
}

TEST_F(TokenFileTest, NamesTheFirstIdThatIsBeyondTheVocabulary) {
  U16 ids(20000, 1);
  ids[12345] = 60000;
  const TokenFile file(bin(bytes_of(ids)));
  file.require_ids_below(60001);
  EXPECT_TRUE(fails_with([&] { file.require_ids_below(60000); },
                         {"t.bin", "token 12345 is 60000", "ends at 59999", "another tokenizer?"}));
}

TEST_F(TokenFileTest, LooksOnlyAtTheTokensThatAreUsed) {
  U16 ids(20000, 1);
  ids[12345] = 60000;
  const TokenFile file(bin(bytes_of(ids)));
  file.require_ids_below(60000, 12345);
  EXPECT_THROW(file.require_ids_below(60000, 12346), Error);
  EXPECT_THROW(file.require_ids_below(60000, 0), Error);  // all
  file.require_ids_below(60001, 1 << 30);
}

TEST_F(TokenFileTest, RefusesIdsThatAreNone) {
  const TokenFile large(bin(llmc(20240801, 7, 1, bytes_of_one<std::uint32_t>(1u << 31))));
  EXPECT_TRUE(fails_with([&] { all_of(large); }, {"t.bin", "token 0 is 2147483648"}));
  const TokenFile negative(pair(index_of({2}, 4, 4), bytes_of(Ids{1, -1})));
  EXPECT_TRUE(fails_with([&] { all_of(negative); }, {"t.bin", "token 1 is -1"}));
}

TEST_F(TokenFileTest, RefusesToReadBeyondItsEnd) {
  const TokenFile file(bin(bytes_of(U16{1, 2, 3})));
  Ids two(2);
  file.read(1, two);
  EXPECT_EQ(two, (Ids{2, 3}));
  for (const std::int64_t begin :
       {std::int64_t(2), std::int64_t(-1), std::numeric_limits<std::int64_t>::max()})
    EXPECT_TRUE(fails_with([&] { file.read(begin, two); }, {"has 3 tokens"}));
}

TEST_F(TokenFileTest, SaysThatItBecameShorterWhileItIsRead) {
  const auto path = bin(bytes_of(U16(100000, 1)));
  const TokenFile file(path);
  std::filesystem::resize_file(path, 0);
  EXPECT_TRUE(fails_with([&] { all_of(file); }, {"became shorter"}));
}

TEST_F(TokenFileTest, RefusesWhatIsNoFileOfTokens) {
  EXPECT_TRUE(fails_with([&] { TokenFile(bin("")); }, {"t.bin", "is empty"}));
  EXPECT_TRUE(fails_with([&] { TokenFile(bin("abc")); }, {"3 bytes, is odd"}));
  EXPECT_TRUE(fails_with([&] { TokenFile(folder_ / "gone.bin"); }, {"gone.bin"}));
  EXPECT_TRUE(fails_with([&] { TokenFile(folder_.path()); }, {"cannot open"}));
}

TEST_F(TokenFileTest, RefusesHeadersOfLlmcThatLie) {
  const std::string tokens = bytes_of(U16{1, 2});
  const auto refuses = [&](const std::string& text, std::initializer_list<std::string_view> parts) {
    return fails_with([&] { TokenFile(bin(text)); }, parts);
  };
  EXPECT_TRUE(refuses(llmc(20240520, 2, 2, tokens), {"version 2", "expected 1"}));
  EXPECT_TRUE(refuses(llmc(20240801, 1, 2, tokens), {"version 1", "expected 7"}));
  EXPECT_TRUE(refuses(llmc(20240520, 1, 3, tokens), {"says 3 tokens of 2 bytes, and 4 bytes follow"}));
  EXPECT_TRUE(refuses(llmc(20240520, 1, -1, tokens), {"says -1 tokens"}));
  EXPECT_TRUE(refuses(llmc(20240520, 1, 2, tokens).substr(0, 1000), {"too few for the header"}));
  EXPECT_TRUE(refuses(llmc(20240522, 1, 2, tokens), {"multiple-choice"}));
}

TEST_F(TokenFileTest, RefusesIndexesOfMegatronThatLie) {
  const std::string tokens = bytes_of(U16{1, 2, 3});
  const auto refuses = [&](auto&& spoil, std::initializer_list<std::string_view> parts) {
    MegatronIndex index = index_of({2, 1});
    spoil(index);
    return fails_with([&] { TokenFile(pair(index, tokens)); }, parts);
  };
  EXPECT_TRUE(refuses([](auto& i) { i.magic[0] = 'N'; }, {"t.idx", "MMIDIDX"}));
  EXPECT_TRUE(refuses([](auto& i) { i.version = 2; }, {"version 2"}));
  EXPECT_TRUE(refuses([](auto& i) { i.type = 7; }, {"type 7", "float"}));
  EXPECT_TRUE(refuses([](auto& i) { i.type = 9; }, {"type 9", "unknown"}));
  EXPECT_TRUE(refuses([](auto& i) { i.type = 4; }, {"sequence 1 begins at byte 4, expected 8"}));
  EXPECT_TRUE(refuses([](auto& i) { i.lengths[1] = -1; }, {"sequence 1 has -1 tokens"}));
  EXPECT_TRUE(refuses([](auto& i) { i.lengths[1] = 2; }, {"describes 8 bytes", "has 6", "complete?"}));
  EXPECT_TRUE(refuses([](auto& i) { i.lengths[1] = 0; }, {"describes 4 bytes", "belong together?"}));
  EXPECT_TRUE(refuses([](auto& i) { i.pointers[1] = -2; }, {"sequence 1 begins at byte -2, expected 4"}));
  EXPECT_TRUE(refuses([](auto& i) { i.documents = {}; }, {"end with sequence 0 of 2"}));
  EXPECT_TRUE(refuses([](auto& i) { i.documents = {1, 2}; }, {"first document", "sequence 1, expected 0"}));
  EXPECT_TRUE(refuses([](auto& i) { i.documents = {0, 2, 1}; }, {"document 2", "expected 2 to 2"}));
  EXPECT_TRUE(refuses([](auto& i) { i.documents = {0, 3}; }, {"document 1", "sequence 3"}));
  EXPECT_TRUE(refuses([](auto& i) { i.documents = {0, 1}; }, {"end with sequence 1 of 2"}));
}

// Lists that are holes in the file: walking them would take minutes.
TEST_F(TokenFileTest, RefusesMoreEmptySequencesOrDocumentsOfMegatronThanAnyoneHas) {
  const std::uint64_t many = 2'000'000'000;
  for (const auto& [sequences, documents, says] :
       {std::tuple(many, std::uint64_t{2}, "2000000000 sequences of 3 tokens"),
        std::tuple(std::uint64_t{2}, many, "2000000000 documents of 3 tokens")}) {
    const auto place = pair(index_of({2, 1}), bytes_of(U16{1, 2, 3}));
    const auto index = std::filesystem::path(place).replace_extension(".idx");
    test::write_file(index, std::string("MMIDIDX\0\0", 9) + test::bytes_of_one<std::uint64_t>(1) + '\x08' +
                                test::bytes_of_one(sequences) + test::bytes_of_one(documents));
    std::filesystem::resize_file(index, 34 + 12 * sequences + 8 * documents);
    EXPECT_TRUE(fails_with([&] { TokenFile{place}; }, {"t.idx", says}));
  }
}

TEST_F(TokenFileTest, RefusesAnIndexOfMegatronThatIsCutAnywhereOrLonger) {
  const std::string whole = index_of({2, 1}).text();
  pair(index_of({2, 1}), bytes_of(U16{1, 2, 3}));
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    write_file(folder_ / "t.idx", whole.substr(0, cut));
    EXPECT_TRUE(fails_with([&] { TokenFile(folder_ / "t.bin"); }, {"t.idx"}));
  }
  write_file(folder_ / "t.idx", whole + std::string(2, '\0'));
  EXPECT_TRUE(fails_with([&] { TokenFile(folder_ / "t.bin"); }, {"multimodal"}));
}

TEST_F(TokenFileTest, RefusesCountsThatOverflow) {
  std::string text = index_of({2, 1}).text();
  for (const std::uint64_t count : {~0ull, 1ull << 62, 0x1555555555555556ull})
    for (const std::size_t at : {18u, 26u}) {
      std::string spoilt = text;
      std::memcpy(spoilt.data() + at, &count, 8);
      write_file(folder_ / "t.idx", spoilt);
      write_file(folder_ / "t.bin", "");
      EXPECT_TRUE(fails_with([&] { TokenFile(folder_ / "t.bin"); }, {"do not fit"}));
    }
}

}  // namespace
}  // namespace upmoe
