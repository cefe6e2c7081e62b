#pragma once
#include <cstdint>

namespace upmoe {

// Of upmoe.json (docs/formats.md). 1, which is not written: without "version" and "output.files".
inline constexpr std::uint64_t kRecordVersion = 2;

}  // namespace upmoe
