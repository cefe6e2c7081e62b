#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

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
  std::uint64_t version = 1;
  std::map<std::string, std::string> files;  // hashes of the files of the output, of weights those of headers
  std::vector<std::string> side_files;       // that came from the source
  std::string card;                          // hash of the model card
  bool keep_tied = false;
  std::vector<std::string> notes;  // what it does not say, and what that was taken for
};

// Throws Error when the text is no such record, or names a method that does not exist. An option that the
// method got later than the record was written has its default, which is what the method did before.
Record parse_record(std::string_view text, std::string_view where);

}  // namespace upmoe
