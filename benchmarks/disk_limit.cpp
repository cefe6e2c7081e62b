// disk_limit IN... OUT BYTES DEPTH: reads the IN files once and writes BYTES to a new file OUT at the same
// time, with plain aligned pread and pwrite past the page cache, DEPTH threads on each side, and makes OUT
// durable. Prints the seconds. What a conversion of IN to BYTES could take at best on this disk: nothing is
// computed, and the bytes mean nothing.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::uint64_t kBlock = 4u << 20;

void check(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::exit(1);
}

struct Buffer {
  Buffer() : bytes(static_cast<char*>(std::aligned_alloc(4096, kBlock)), std::free) {
    for (std::uint64_t i = 0; i < kBlock; ++i)
      bytes.get()[i] = static_cast<char>(i * 2654435761u >> 13);  // not zeros
  }
  std::unique_ptr<char, void (*)(void*)> bytes;
};

// Calls work(block) for every block of a file from `depth` threads.
template <class Work>
void share_out(std::vector<std::jthread>& threads, std::atomic<std::uint64_t>& next, std::uint64_t blocks,
               int depth, Work work) {
  for (int t = 0; t < depth; ++t)
    threads.emplace_back([&next, blocks, work] {
      const Buffer buffer;
      for (std::uint64_t b = next++; b < blocks; b = next++) work(b, buffer.bytes.get());
    });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "disk_limit IN... OUT BYTES DEPTH\n"), 2;
  const std::string out_path = argv[argc - 3];
  const std::uint64_t bytes = std::strtoull(argv[argc - 2], nullptr, 10);
  const int depth = std::atoi(argv[argc - 1]);
  const int out = ::open(out_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_DIRECT, 0666);
  check(out >= 0, out_path.c_str());
  const auto start = std::chrono::steady_clock::now();
  check(::fallocate(out, 0, 0, static_cast<off_t>(bytes)) == 0, "fallocate");
  std::vector<int> in;
  std::vector<std::unique_ptr<std::atomic<std::uint64_t>>> next;
  {
    std::vector<std::jthread> threads;
    for (int i = 1; i < argc - 3; ++i) {
      const int fd = in.emplace_back(::open(argv[i], O_RDONLY | O_DIRECT));
      check(fd >= 0, argv[i]);
      struct stat info {};
      check(::fstat(fd, &info) == 0, argv[i]);
      share_out(threads, *next.emplace_back(std::make_unique<std::atomic<std::uint64_t>>(0)),
                (static_cast<std::uint64_t>(info.st_size) + kBlock - 1) / kBlock, i == 1 ? depth : 1,
                [fd](std::uint64_t b, char* buffer) {
                  check(::pread(fd, buffer, kBlock, static_cast<off_t>(b * kBlock)) >= 0, "pread");
                });
    }
    share_out(
        threads, *next.emplace_back(std::make_unique<std::atomic<std::uint64_t>>(0)),
        (bytes + kBlock - 1) / kBlock, depth, [out](std::uint64_t b, char* buffer) {
          check(::pwrite(out, buffer, kBlock, static_cast<off_t>(b * kBlock)) == static_cast<ssize_t>(kBlock),
                "pwrite");
        });
  }
  check(::ftruncate(out, static_cast<off_t>(bytes)) == 0 && ::fdatasync(out) == 0, "finish");
  std::printf("%.4f\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}
