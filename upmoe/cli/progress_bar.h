#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace upmoe::cli {

// On stderr: a bar with rate and time left on a terminal, a plain line now and then elsewhere.
class ProgressBar {
 public:
  enum class Unit { bytes, tokens };
  explicit ProgressBar(std::string what, Unit unit = Unit::bytes);
  ~ProgressBar();  // clears an unfinished bar
  void update(std::uint64_t done, std::uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  Unit unit_;
  bool terminal_;
  Clock::time_point start_ = Clock::now(), shown_ = start_;
  bool drawn_ = false;
};

}  // namespace upmoe::cli
