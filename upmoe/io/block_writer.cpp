#include "upmoe/io/block_writer.h"

#include "upmoe/base/parallel.h"

namespace upmoe {

BlockWriter::BlockWriter(std::size_t num_buffers, std::size_t buffer_bytes, std::nullptr_t /*none*/)
    : memory_(num_buffers * buffer_bytes, /*memory=*/true) {
  for (std::size_t i = num_buffers; i-- > 0;)
    free_.emplace_back(memory_.begin() + i * buffer_bytes, buffer_bytes);
}

// In two steps, so that a thread that can't be started finds a destructor that stops those that run.
BlockWriter::BlockWriter(std::size_t num_buffers, std::size_t num_threads, std::size_t buffer_bytes)
    : BlockWriter(num_buffers, buffer_bytes, nullptr) {
  for (std::size_t i = 0; i < num_threads; ++i)
    threads_.push_back(start_thread([this] { write_until_stopped(); }));
}

BlockWriter::~BlockWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    jobs_.clear();
  }
  changed_.notify_all();
  threads_.clear();  // joins
}

std::span<std::byte> BlockWriter::acquire() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !free_.empty() || error_; });
  if (error_) std::rethrow_exception(error_);
  const std::span<std::byte> buffer = free_.back();
  free_.pop_back();
  return buffer;
}

void BlockWriter::give_back(std::span<std::byte> buffer) {
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(buffer);
  }
  changed_.notify_all();
}

void BlockWriter::submit(std::span<std::byte> buffer, std::size_t bytes, BlockFile& file, std::uint64_t at,
                         std::function<void()> written) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({buffer, bytes, &file, at, std::move(written)});
  }
  changed_.notify_all();
}

void BlockWriter::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return (jobs_.empty() && writing_ == 0) || error_; });
  if (error_) std::rethrow_exception(error_);
}

void BlockWriter::write_until_stopped() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    ++writing_;
    lock.unlock();
    std::exception_ptr error;
    try {
      job.file->write(job.at, job.buffer.first(job.bytes));
      job.written();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    --writing_;
    free_.push_back(job.buffer);
    if (error && !error_) error_ = error;
    changed_.notify_all();
  }
}

}  // namespace upmoe
