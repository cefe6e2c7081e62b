#pragma once
#include "upmoe/base/options.h"

namespace upmoe::cli {

// How texts are read and shown to a model: options of every verb that has --data.
struct TextFlags {
  std::string field = "text";
  Choices allow{{}, {"context"}};
  void visit(auto&& field_) {
    field_(field, "field", "the key of a JSONL line that holds the text");
    field_(allow, "allow", "context: accept a --context longer than the model's");
  }
};

}  // namespace upmoe::cli
