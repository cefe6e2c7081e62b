#pragma once
#include "upmoe/base/error.h"

namespace upmoe::cli {

// Nobody reads standard output any more (`| head`), so there is no more to do. Unwinds like an error, and is
// none: nothing is said, and the exit code is that of SIGPIPE in a shell.
struct ReaderGone : Error {
  ReaderGone() : Error("nobody reads standard output any more") {}
};

// What was printed so far goes out. Throws ReaderGone, or Error when it cannot be written.
void flush_output();

}  // namespace upmoe::cli
