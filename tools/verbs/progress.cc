#include "tools/verbs/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

namespace skippipe {
namespace {

constexpr int kBarWidth = 30;
constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kPlainInterval = std::chrono::seconds(10);

}  // namespace

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return fmt::format("{:.{}f} {}", value, unit > 0 && value < 99.95 ? 1 : 0, kUnits[unit]);
}

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  if (total < 60) return fmt::format("{} s", total);
  if (total < 3600) return fmt::format("{} min {:02d} s", total / 60, total % 60);
  return fmt::format("{} h {:02d} min", total / 3600, total % 3600 / 60);
}

Progress::Progress(std::string label, uint64_t total, std::string unit)
    : label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      next_print_(start_ + (terminal_ ? Clock::duration(kTerminalInterval) : Clock::duration(kPlainInterval))) {}

Progress::~Progress() {
  if (line_open_) std::fputs("\r\033[K", stderr);
}

std::string Progress::describe(double share, const std::string& note) const {
  const double elapsed_s = std::chrono::duration<double>(Clock::now() - start_).count();
  const std::string left = share > 0 ? format_duration(elapsed_s * (1 - share) / share) : "?";
  return fmt::format("{}: {:3.0f} %  {}, {} left", label_, 100 * share, note, left);
}

void Progress::update(uint64_t done) {
  if (!is_due()) return;
  const auto amount = [&](uint64_t n) { return unit_ == "bytes" ? format_bytes(n) : fmt::format("{} {}", n, unit_); };
  if (total_ == 0) return show(0, fmt::format("{}: {}", label_, amount(done)));
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  const std::string of = unit_ == "bytes" ? format_bytes(done) : std::to_string(done);
  show(share, describe(share, fmt::format("{} of {}", of, amount(total_))));
}

void Progress::update_share(double share, const std::string& note) {
  if (!is_due()) return;
  share = std::clamp(share, 0.0, 1.0);
  show(share, describe(share, note));
}

void Progress::show(double share, const std::string& text) {
  if (!terminal_) {
    next_print_ = Clock::now() + kPlainInterval;
    fmt::print(stderr, "{}\n", text);
    return;
  }
  next_print_ = Clock::now() + kTerminalInterval;
  std::string bar;
  if (share > 0) {
    const auto filled = static_cast<size_t>(kBarWidth * share);
    bar = fmt::format("[{:#<{}}{:.<{}}] ", "", filled, "", kBarWidth - filled);
  }
  fmt::print(stderr, "\r\033[K{}{}", bar, text);
  std::fflush(stderr);
  line_open_ = true;
}

}  // namespace skippipe
