#include "tools/bench_kernels/table.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>

#include "base/format.h"
#include "tools/bench_kernels/measurement.h"

namespace skippipe::bench {
namespace {

using Run = benchmark::BenchmarkReporter::Run;

// "OPERATION/BACKEND/DTYPE/MODEL" in columns.
std::string name_columns(const Run& run) {
  std::array<std::string_view, 4> parts;
  std::string_view rest = run.run_name.function_name;
  for (std::string_view& part : parts) {
    part = rest.substr(0, rest.find('/'));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
  }
  return format("{:<24} {:<4} {:<4} {:<5}", parts[0], parts[1], parts[2], parts[3]);
}

const Run* find_statistic(const std::vector<Run>& runs, std::string_view name) {
  for (const Run& run : runs)
    if (run.run_type == Run::RT_Aggregate && run.aggregate_name == name) return &run;
  return nullptr;
}

double value(const Run& run, const char* counter) {
  const auto found = run.counters.find(counter);
  return found == run.counters.end() ? 0 : static_cast<double>(found->second);
}

std::string rate(const Run& run) {
  const double bytes = value(run, counter::kBytesPerSecond), flops = value(run, counter::kFlopsPerSecond);
  if (bytes > 0) return format("{:8.1f} GB/s   ", 1e-9 * bytes);
  return flops < 1e12 ? format("{:8.1f} GFLOP/s", 1e-9 * flops) : format("{:8.1f} TFLOP/s", 1e-12 * flops);
}

std::string peer(const Run& run) {
  const double ratio = value(run, counter::kRatioToPeer);
  return ratio > 0 ? format("{:.2f} x {}", ratio, run.report_label) : "";
}

std::string scratch(const Run& run) {
  const double bytes = value(run, counter::kScratchBytes);
  if (bytes < 1e6) return bytes > 0 ? format("{:.1f} kB", 1e-3 * bytes) : "";
  return format("{:.1f} MB", 1e-6 * bytes);
}

void print_line(const std::string& line) { std::puts(line.c_str()); }

}  // namespace

bool Table::ReportContext(const Context&) {
  print_line(format("\n{:<24} {:<4} {:<4} {:<5} {:>10} {:>21}  {:>16} {:>9}  {:<20} {}", "operation", "on", "in",
                    "model", "median ms", "quartiles", "rate     ", "ceiling", "rate over peer's", "scratch"));
  return true;
}

void Table::ReportRuns(const std::vector<Run>& runs) {
  const Run& first = runs.front();
  if (first.error_occurred) return print_line(name_columns(first) + " FAILED: " + first.error_message);
  // Statistics are reported after the repetitions; a single one has none.
  if (first.run_type == Run::RT_Iteration && first.repetitions > 1) return;
  const Run *median = find_statistic(runs, "median"), *low = find_statistic(runs, kLowerQuartile),
            *high = find_statistic(runs, kUpperQuartile);
  const auto milliseconds = [&](const Run* run) { return (run != nullptr ? run : &first)->GetAdjustedRealTime(); };
  const Run& shown = median != nullptr ? *median : first;
  const std::string quartiles = format("{:.4f} to {:.4f}", milliseconds(low), milliseconds(high));
  print_line(format("{} {:10.4f} {:>21}  {} {:7.1f} %  {:<20} {}", name_columns(first), milliseconds(median), quartiles,
                    rate(shown), value(shown, counter::kPercentOfCeiling), peer(shown), scratch(shown)));
}

}  // namespace skippipe::bench
