// Times operations under Google Benchmark.
#pragma once

#include <benchmark/benchmark.h>

#include <memory>
#include <optional>
#include <string>

#include "tools/bench_kernels/ceilings.h"
#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {

// What is timed: one operation on one device in one dtype at one model's sizes.
struct Subject {
  Operation operation;
  BenchDevice* device;
  const Ceilings* ceilings;
  Dtype dtype;
  const Model* model;
};

// Holds the tensors of one subject at a time: several sets of them, so that no run finds its inputs in a cache.
class Measurement {
 public:
  // One repetition of the subject's timing, its peer's beside it, into the state and its counters. The first one of a
  // subject verifies it; a subject that is wrong or fails is not timed, and the state says why.
  void repeat(benchmark::State& state, const Subject& subject);
  // Whether a subject or a peer was wrong or failed.
  bool failed() const { return failed_; }

 private:
  struct Set {
    std::unique_ptr<Tensors> tensors;
    Problem problem;
  };
  void begin(const Subject& subject);
  bool verify_peer();
  void add_copy_peer();
  Set& next_set();

  bool failed_ = false;
  const Subject* subject_ = nullptr;
  std::string failure_;  // of the subject; empty: none so far
  std::vector<Set> sets_;
  size_t next_set_ = 0;
  testing::DeviceMemory scratch_, copied_;
  Context ctx_;
};

// Registers a benchmark "OPERATION/BACKEND/DTYPE/MODEL" for the subject. Both must stay until all have run.
void register_benchmark(Measurement& measurement, const Subject& subject);

// The names of counters, in the JSON and for the table.
namespace counter {
inline constexpr const char* kBytesPerSecond = "bytes_per_second";
inline constexpr const char* kFlopsPerSecond = "flops_per_second";
inline constexpr const char* kPercentOfCeiling = "percent_of_ceiling";
inline constexpr const char* kPeerPerSecond = "peer_per_second";  // bytes or floating-point operations
inline constexpr const char* kRatioToPeer = "ratio_to_peer";
inline constexpr const char* kScratchBytes = "scratch_bytes";
}  // namespace counter
// The statistics over repetitions that the table shows, beside Google Benchmark's own median.
inline constexpr const char* kLowerQuartile = "quartile1";
inline constexpr const char* kUpperQuartile = "quartile3";

}  // namespace skippipe::bench
