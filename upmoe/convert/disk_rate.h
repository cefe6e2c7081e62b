#pragma once
#include <filesystem>

namespace upmoe {

// Bytes a second at which a folder's disk takes new data, measured by writing 128 MB as a conversion would
// and making them durable. Nothing stays. The folder, or its nearest ancestor that exists, must be writable.
double measure_write_rate(const std::filesystem::path& folder);

}  // namespace upmoe
