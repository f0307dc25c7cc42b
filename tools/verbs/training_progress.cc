#include "tools/verbs/training_progress.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>

#include "tools/verbs/progress.h"

namespace skippipe {

namespace {

constexpr auto kLineInterval = std::chrono::seconds(5);

std::string line_of(const IterationReport& report) {
  const ValidationReport& validation = *report.validation;
  const std::string paths =
      validation.path_loss ? fmt::format(", {:.4f} along the plan's paths", *validation.path_loss) : "";
  return fmt::format("validation after {} iterations: loss {:.4f} through all stages{}; it took {:.2f} s\n",
                     report.iteration + 1, validation.loss, paths, validation.seconds);
}

// The event thread must not wait for a terminal that is held or a pipe that nobody reads.
void write(const std::string& text) {
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  if (poll(&out, 1, 0) != 1 || (out.revents & POLLOUT) == 0) return;
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

TrainingProgress::TrainingProgress(const TrainingRun& run)
    : first_iteration_(run.first_iteration),
      iterations_(static_cast<uint32_t>(run.file.iterations)),
      terminal_(isatty(STDOUT_FILENO) == 1),
      next_line_(Clock::now()),
      pace_(run.plan, run.network) {}

void TrainingProgress::show(const IterationReport& report) {
  for (const std::string& news : pace_.add({report.seconds, report.node_busy_s}))
    write(terminal_ ? fmt::format("\r{}\x1b[K\n", news) : news + "\n");
  seconds_ += report.seconds + (report.validation ? report.validation->seconds : 0);
  const uint32_t done = report.iteration + 1;
  const bool last = done == iterations_;
  if (!terminal_ && !last && !report.validation && Clock::now() < next_line_) return;
  next_line_ = Clock::now() + kLineInterval;
  const double left_s = seconds_ / (done - first_iteration_) * (iterations_ - done);
  const std::string line = fmt::format(
      "iterations {:>{}}/{}  loss {:.4f}  gradient norm {:.3f}  learning rate {:.2e}  {:.0f} tokens/s  {} left", done,
      fmt::formatted_size("{}", iterations_), iterations_, report.loss, report.gradient_norm, report.learning_rate,
      static_cast<double>(report.tokens) / report.seconds, format_duration(left_s));
  const std::string validation = report.validation ? line_of(report) : "";
  write(terminal_ ? fmt::format("\r{}\x1b[K{}{}", line, last || report.validation ? "\n" : "", validation)
                  : line + "\n" + validation);
}

}  // namespace skippipe
