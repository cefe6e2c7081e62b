#pragma once
#include <span>
#include <string>

namespace upmoe {

// Whether the lines of a key of a YAML header are one that every parser reads, whatever stands around them:
// "key: value", "key: [value, value]", or "key:" and lines of "- value", equally far in. A value is a word or
// several, or stands in quotes that end. Anything else that YAML has (anchors, tags, blocks, mappings) is
// not.
bool is_plain_yaml(std::span<const std::string> lines);

}  // namespace upmoe
