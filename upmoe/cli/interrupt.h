#pragma once
#include <atomic>

namespace upmoe::cli {

// From here on Ctrl-C, SIGTERM and SIGHUP set the flag; a second one ends the program at once.
const std::atomic<bool>& catch_interrupts();

}  // namespace upmoe::cli
