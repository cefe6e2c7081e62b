#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/temp_folder.h"

namespace upmoe::test {

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::string bytes_of_one(T value) {
  return bytes_of(std::vector<T>{value});
}

// llm.c: 256 int32, then the tokens.
inline std::string llmc(std::int32_t magic, std::int32_t version, std::int32_t count,
                        const std::string& tokens) {
  std::vector<std::int32_t> header(256);
  header[0] = magic, header[1] = version, header[2] = count;
  return bytes_of(header) + tokens;
}

// Megatron's .idx, every part as it is given.
struct MegatronIndex {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  std::uint64_t version = 1;
  std::uint8_t type = 8;
  std::vector<std::int32_t> lengths;
  std::vector<std::int64_t> pointers;
  std::vector<std::int64_t> documents = {0};

  std::string text() const {
    return magic + bytes_of_one(version) + bytes_of_one(type) + bytes_of_one<std::uint64_t>(lengths.size()) +
           bytes_of_one<std::uint64_t>(documents.size()) + bytes_of(lengths) + bytes_of(pointers) +
           bytes_of(documents);
  }
};

// An index of documents of one sequence each.
inline MegatronIndex index_of(const std::vector<std::int32_t>& lengths, std::uint8_t type = 8,
                              std::int64_t width = 2) {
  MegatronIndex index{.type = type, .lengths = lengths, .pointers = {}};
  std::int64_t byte = 0;
  for (const std::int32_t length : lengths) {
    index.pointers.push_back(byte);
    byte += length * width;
    index.documents.push_back(std::int64_t(index.documents.size()));
  }
  return index;
}

inline std::filesystem::path write_megatron(const TempFolder& folder, const std::string& name,
                                            const MegatronIndex& index, const std::string& tokens) {
  write_file(folder / (name + ".idx"), index.text());
  return write_file(folder / (name + ".bin"), tokens);
}

}  // namespace upmoe::test
