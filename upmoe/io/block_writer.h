#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "upmoe/io/address_range.h"
#include "upmoe/io/block_file.h"

namespace upmoe {

// A fixed pool of block buffers that circulates between the workers who fill them and the threads that write
// them. All members are safe to call from any thread.
class BlockWriter {
 public:
  BlockWriter(std::size_t num_buffers, std::size_t num_threads, std::size_t buffer_bytes = kBlockBytes);
  ~BlockWriter();  // drops what is not yet being written
  BlockWriter(const BlockWriter&) = delete;
  BlockWriter& operator=(const BlockWriter&) = delete;

  // A buffer of that size, aligned; waits until one is free. Throws what a write has failed with.
  std::span<std::byte> acquire();
  // Gives a buffer back unwritten.
  void give_back(std::span<std::byte> buffer);
  // Has the first `bytes` of a buffer written and then takes it back. The file must live until drain().
  // `written` is called when they are, from a writing thread.
  void submit(
      std::span<std::byte> buffer, std::size_t bytes, BlockFile& file, std::uint64_t at,
      std::function<void()> written = [] {});
  // Waits until everything submitted is written. Throws what a write has failed with.
  void drain();

 private:
  BlockWriter(std::size_t num_buffers, std::size_t buffer_bytes, std::nullptr_t no_threads_yet);

  struct Job {
    std::span<std::byte> buffer;
    std::size_t bytes;
    BlockFile* file;
    std::uint64_t at;
    std::function<void()> written;
  };
  void write_until_stopped();

  AddressRange memory_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::span<std::byte>> free_;
  std::deque<Job> jobs_;
  std::size_t writing_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;
};

}  // namespace upmoe
