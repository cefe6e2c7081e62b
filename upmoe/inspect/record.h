#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "upmoe/upcycle/method.h"

namespace upmoe {

// What upmoe.json says of the conversion that wrote it (docs/formats.md): enough to ask the method again what
// it made of each neuron.
struct Record {
  std::string method_name;
  std::unique_ptr<Method> method;  // with the options of then
  std::uint64_t seed = 0;
  MoeShape asked;
  bool exact = false;                                 // computes at first what the dense model does
  std::string not_exact_because;                      // or why not
  std::string source_config;                          // hash of the source's config.json
  std::map<std::string, std::string> output, source;  // hashes of tensors; of the source those that were read
};

// Throws Error when the text is no such record, or names a method or an option that does not exist.
Record parse_record(std::string_view text, std::string_view where);

}  // namespace upmoe
