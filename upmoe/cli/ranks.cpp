#include "upmoe/cli/ranks.h"

#include <array>
#include <cstdlib>

#include "upmoe/base/options.h"

namespace upmoe::cli {
namespace {

constexpr std::int64_t kMostRanks = 100'000;

struct Launcher {
  const char *name, *rank, *ranks;
};
constexpr std::array kLaunchers = {
    Launcher{"torchrun", "RANK", "WORLD_SIZE"},
    Launcher{"Slurm", "SLURM_PROCID", "SLURM_NTASKS"},
    Launcher{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    Launcher{"MPICH", "PMI_RANK", "PMI_SIZE"},
};

std::int64_t number(const std::string& name, const char* text) {
  std::int64_t out = 0;
  option_value::read(out, name, text);
  return out;
}

}  // namespace

RankOf find_rank(const std::string& ranks_text, const std::string& rank_text) {
  std::int64_t ranks = 0, rank = 0;
  if (ranks_text == "auto") {
    require_asked(rank_text.empty(), "--rank {} and --ranks auto: one of the two", printable(rank_text));
    std::vector<std::string> looked_for;
    for (const Launcher& launcher : kLaunchers) {
      const char* const its_rank = std::getenv(launcher.rank);
      const char* const its_ranks = std::getenv(launcher.ranks);
      looked_for.push_back(fmt::format("{} and {} of {}", launcher.rank, launcher.ranks, launcher.name));
      if (its_rank == nullptr || its_ranks == nullptr) continue;
      rank = number(launcher.rank, its_rank);
      ranks = number(launcher.ranks, its_ranks);
      break;
    }
    require_asked(ranks != 0, "--ranks auto: none of these variables is set: {}", join(looked_for));
  } else {
    ranks = number("ranks", ranks_text.c_str());
    require_asked(ranks == 1 || !rank_text.empty(), "--ranks {}: which of them is this? pass --rank 0 to {}",
                  ranks, ranks - 1);
    if (!rank_text.empty()) rank = number("rank", rank_text.c_str());
  }
  require_asked(ranks >= 1 && ranks <= kMostRanks, "--ranks is {}, expected 1 to {}, or auto", ranks,
                kMostRanks);
  require_asked(rank >= 0 && rank < ranks, "--rank is {}, expected 0 to {}", rank, ranks - 1);
  return {static_cast<std::size_t>(rank), static_cast<std::size_t>(ranks)};
}

}  // namespace upmoe::cli
