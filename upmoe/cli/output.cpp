#include "upmoe/cli/output.h"

#include <cerrno>
#include <cstdio>

namespace upmoe::cli {

void flush_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  if (errno == EPIPE) throw ReaderGone();
  fail("cannot write to standard output");
}

}  // namespace upmoe::cli
