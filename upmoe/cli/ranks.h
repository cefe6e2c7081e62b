#pragma once
#include <cstdint>
#include <string>

#include "upmoe/convert/run.h"

namespace upmoe::cli {

// Which of several processes this is. `ranks` is --ranks: a number, or "auto" for what torchrun, Slurm or MPI
// have set; `rank` is --rank, -1 when it was not given. Throws UsageError.
RankOf find_rank(const std::string& ranks, std::int64_t rank);

}  // namespace upmoe::cli
