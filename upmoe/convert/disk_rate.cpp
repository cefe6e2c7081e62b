#include "upmoe/convert/disk_rate.h"

#include <unistd.h>

#include <chrono>
#include <cstring>

#include "upmoe/base/error.h"
#include "upmoe/base/text.h"
#include "upmoe/io/block_writer.h"

namespace upmoe {
namespace fs = std::filesystem;

double measure_write_rate(const fs::path& folder) {
  constexpr std::size_t kBlocks = 32;
  fs::path there = fs::absolute(folder);
  while (!fs::is_directory(there) && there.has_relative_path()) there = there.parent_path();
  const fs::path path = there / fmt::format(".upmoe-disk-rate-{}", ::getpid());

  using Clock = std::chrono::steady_clock;
  Clock::time_point start;
  {
    BlockWriter writer(4, 2);
    BlockFile file(path, kBlocks * kBlockBytes);
    std::error_code error;
    fs::remove(path, error);  // the open file lives on without a name, so nothing can be left behind
    require(!error, "{}: cannot remove: {}", printable(path.string()), error.message());
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const std::span<std::byte> buffer = writer.acquire();
      std::memset(buffer.data(), static_cast<int>(b + 1), buffer.size());
      if (b == 0) start = Clock::now();  // after the first buffer is touched
      writer.submit(buffer, buffer.size(), file, b * kBlockBytes);
    }
    writer.drain();
    file.finish();
  }
  return kBlocks * kBlockBytes / std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace upmoe
