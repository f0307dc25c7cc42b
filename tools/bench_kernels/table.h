#pragma once

#include <benchmark/benchmark.h>

namespace skippipe::bench {

// The table for people: a line per benchmark with the median over repetitions, printed when its last one is done.
class Table : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;
};

}  // namespace skippipe::bench
