#pragma once
#include <cstddef>
#include <string>

namespace upmoe::cli {

// Whether the stream (1 or 2) is a terminal that obeys escape sequences: TERM names one that is not "dumb".
bool is_terminal(int stream);

// Its columns; 80 where it does not say.
std::size_t columns(int stream);

// The text in green or red where the stream is such a terminal and NO_COLOR is not set
// (https://no-color.org); else as it is.
std::string green(const std::string& text, int stream);
std::string red(const std::string& text, int stream);

}  // namespace upmoe::cli
