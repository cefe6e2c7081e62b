#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace upmoe::cli {

// The line that it draws, of at most so many columns: without the bar where that does not fit, and cut where
// the text does not.
std::string progress_line(const std::string& what, double share, const std::string& text,
                          std::size_t columns);

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
