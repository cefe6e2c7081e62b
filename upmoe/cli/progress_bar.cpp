#include "upmoe/cli/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "upmoe/base/text.h"
#include "upmoe/cli/terminal.h"

namespace upmoe::cli {

std::string progress_line(const std::string& what, double share, const std::string& text,
                          std::size_t columns) {
  constexpr std::size_t kLeast = 4, kMost = 24, kAround = 4;  // "[", "]" and two spaces
  const std::size_t taken = what.size() + text.size() + kAround;
  if (taken + kLeast > columns) return (what + " " + text).substr(0, columns);
  const std::size_t width = std::min(kMost, columns - taken);
  const auto full = static_cast<std::size_t>(share * static_cast<double>(width));
  return fmt::format("{} [{:#>{}}{: >{}}] {}", what, "", full, "", width - full, text);
}

ProgressBar::ProgressBar(std::string what, Unit unit)
    : what_(std::move(what)), unit_(unit), terminal_(is_terminal(STDERR_FILENO)) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

// fputs: a progress line that can't be written is no reason to fail.
void ProgressBar::update(std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  const auto since = std::chrono::duration<double>(now - shown_).count();
  if (since < (terminal_ ? 0.1 : 5.0)) return;
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(done) / seconds, left = static_cast<double>(total - done) / rate;
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const auto amount = [this](std::uint64_t n) {
    return unit_ == Unit::bytes ? human_bytes(n) : human_count(n) + " tokens";
  };
  const std::string text = fmt::format("{:3.0f} %  {} of {}, {}/s, {:.0f} s left", 100 * share, amount(done),
                                       amount(total), amount(static_cast<std::uint64_t>(rate)), left);
  if (terminal_) {
    // A line that fills the last column would wrap on some terminals.
    const std::string line = progress_line(what_, share, text, columns(STDERR_FILENO) - 1);
    std::fputs(("\r\033[K" + line).c_str(), stderr);
    std::fflush(stderr);
    drawn_ = true;
  } else {
    std::fputs(fmt::format("{}: {}\n", what_, text).c_str(), stderr);
  }
}

}  // namespace upmoe::cli
