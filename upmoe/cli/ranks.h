#pragma once
#include <string>

#include "upmoe/convert/run.h"

namespace upmoe::cli {

// Which of several processes this is. `ranks` is --ranks: a number, or "auto" for what torchrun, Slurm or MPI
// have set; `rank` is --rank, empty when it was not given. Throws UsageError.
RankOf find_rank(const std::string& ranks, const std::string& rank);

}  // namespace upmoe::cli
