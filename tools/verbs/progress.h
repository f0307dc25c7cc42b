// Progress on standard error: a bar with the time left on a terminal, a plain line every ten seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace skippipe {

// One thread. Prints nothing for work that is done at once.
class Progress {
 public:
  // total 0: unknown. "unit" is what is counted; "bytes" are shown in MB.
  Progress(std::string label, uint64_t total, std::string unit);
  // Of a share of the whole, by update_share.
  explicit Progress(std::string label) : Progress(std::move(label), 0, "") {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Cheap: prints at most ten times a second.
  void update(uint64_t done);
  // The note stands between the percents and the time left: "planning:  43 %  best 24.61 s, 26 s left".
  void update_share(double share, const std::string& note);

 private:
  using Clock = std::chrono::steady_clock;

  bool is_due() const { return Clock::now() >= next_print_; }
  std::string describe(double share, const std::string& note) const;
  void show(double share, const std::string& text);

  std::string label_;
  uint64_t total_;
  std::string unit_;
  bool terminal_;
  Clock::time_point start_;
  Clock::time_point next_print_;
  bool line_open_ = false;
};

// "950 kB", "4.3 MB"
std::string format_bytes(uint64_t bytes);
// "8 s", "2 min 05 s", "3 h 10 min"
std::string format_duration(double seconds);

}  // namespace skippipe
