// disk_limit IN... OUT BYTES DEPTH: reads the IN files (if any) once and writes BYTES to a new file OUT at
// the same time, with plain aligned pread and pwrite past the page cache, DEPTH threads on each side, and
// makes OUT durable. Prints the seconds from the first open to that; buffers are made ready before. What a
// conversion of IN to BYTES could take at best on this disk: nothing is computed, and the bytes mean nothing.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::uint64_t kAlignment = 4096;
constexpr std::uint64_t kBlock = 4u << 20;

void check(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::exit(1);
}

// Blocks of random bytes, all pages touched. Lives as long as the process.
std::vector<char*> make_buffers(int number) {
  const std::uint64_t size = static_cast<std::uint64_t>(number) * kBlock;
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "buffers");
  ::madvise(memory, size, MADV_HUGEPAGE);
  std::mt19937_64 random;
  auto* words = static_cast<std::uint64_t*>(memory);
  std::generate_n(words, size / sizeof(*words), random);
  std::vector<char*> buffers;
  for (int i = 0; i < number; ++i)
    buffers.push_back(static_cast<char*>(memory) + static_cast<std::uint64_t>(i) * kBlock);
  return buffers;
}

// No two pages that are written are the same, so that no disk can save itself the work.
void stamp(char* buffer, std::uint64_t block) {
  for (std::uint64_t at = 0; at < kBlock; at += kAlignment) std::memcpy(buffer + at, &block, sizeof(block));
}

struct ReadJob {
  int fd;
  off_t at;
};

std::vector<ReadJob> open_all(const std::vector<std::string>& paths) {
  std::vector<ReadJob> jobs;
  for (const std::string& path : paths) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECT);
    check(fd >= 0, path.c_str());
    struct stat info {};
    check(::fstat(fd, &info) == 0, path.c_str());
    for (off_t at = 0; at < info.st_size; at += kBlock) jobs.push_back({fd, at});
  }
  return jobs;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::fprintf(stderr, "disk_limit IN... OUT BYTES DEPTH\n"), 2;
  const std::vector<std::string> in_paths(argv + 1, argv + argc - 3);
  const char* out_path = argv[argc - 3];
  const std::uint64_t bytes = std::strtoull(argv[argc - 2], nullptr, 10);
  const int depth = std::max(1, std::atoi(argv[argc - 1]));
  const std::uint64_t whole_pages = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::uint64_t write_jobs = (bytes + kBlock - 1) / kBlock;
  const std::vector<char*> buffers = make_buffers(2 * depth);

  const auto start = std::chrono::steady_clock::now();
  const std::vector<ReadJob> read_jobs = open_all(in_paths);
  const int out = ::open(out_path, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT, 0666);
  check(out >= 0, out_path);
  check(::fallocate(out, 0, 0, static_cast<off_t>(bytes)) == 0, "fallocate");
  std::atomic<std::uint64_t> next_read = 0, next_write = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < depth; ++t) {
      threads.emplace_back([&, buffer = buffers[static_cast<std::size_t>(t)]] {
        for (std::uint64_t b = next_read++; b < read_jobs.size(); b = next_read++)
          check(::pread(read_jobs[b].fd, buffer, kBlock, read_jobs[b].at) > 0, "pread");
      });
      threads.emplace_back([&, buffer = buffers[static_cast<std::size_t>(depth + t)]] {
        for (std::uint64_t b = next_write++; b < write_jobs; b = next_write++) {
          const std::uint64_t size = std::min(kBlock, whole_pages - b * kBlock);
          stamp(buffer, b);
          check(::pwrite(out, buffer, size, static_cast<off_t>(b * kBlock)) == static_cast<ssize_t>(size),
                "pwrite");
        }
      });
    }
  }
  check(::ftruncate(out, static_cast<off_t>(bytes)) == 0 && ::fdatasync(out) == 0, "finish");
  std::printf("%.4f\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}
