#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace upmoe {

// A stranger's bytes made safe to print: control characters and broken UTF-8 become \xNN, long text is cut.
std::string printable(std::string_view text, std::size_t most = 200);

std::string human_bytes(std::uint64_t bytes);   // decimal units, as disks and Hugging Face count: "1.38 GB"
std::string human_count(std::uint64_t number);  // "692.0 M"
std::string join(std::span<const std::string> words, std::string_view separator = ", ");

std::string plural(std::int64_t number, std::string_view what);  // "1 layer", "2 layers"
std::string shell_word(std::string_view text);                   // as a shell reads it as one word

// "5GB", "512MiB", "1000000": bytes. Throws UsageError naming `what`, also where a
// number below 1000 has no unit.
std::uint64_t parse_bytes(std::string_view text, std::string_view what);

// "; did you mean 'ratio'?" when a candidate is near, otherwise "".
std::string guess(std::string_view word, std::span<const std::string> candidates);

}  // namespace upmoe
