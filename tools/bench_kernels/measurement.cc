#include "tools/bench_kernels/measurement.h"

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/format.h"
#include "tools/bench_kernels/verify.h"

namespace skippipe::bench {
namespace {

constexpr size_t kSets = 3;

// As far from the lowest value as the upper quartile is from the highest.
double lower_quartile(const std::vector<double>& values) {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  return sorted[(sorted.size() - 1) / 4];
}
double upper_quartile(const std::vector<double>& values) {
  std::vector<double> sorted = values;
  std::sort(sorted.rbegin(), sorted.rend());
  return sorted[(sorted.size() - 1) / 4];
}

}  // namespace

// A library that fails costs the comparison with it, no more.
bool Measurement::verify_peer() {
  const auto& [operation, device, ceilings, dtype, model] = *subject_;
  std::string mistake;
  try {
    mistake = find_mistake(*device, operation, dtype, *model, Way::kPeer);
  } catch (const Error& error) {
    mistake = error.what();
  }
  if (mistake.empty()) return true;
  failed_ = true;
  std::fprintf(stderr, "bench_kernels: %s is timed without its peer, which fails: %s\n", operation.name,
               mistake.c_str());
  return false;
}

// Copying moves what the operation moves: half of it is read, half written.
void Measurement::add_copy_peer() {
  Problem& first = sets_.front().problem;
  if (first.unit != Unit::kBytes || !first.peer.name.empty()) return;
  constexpr int64_t kAligned = 256;
  const auto half = static_cast<int64_t>(first.work / 2) / kAligned * kAligned;
  BenchDevice& device = *subject_->device;
  copied_ = device.memory().allocate(static_cast<size_t>(2 * half));
  const auto copy = [&device, half, from = copied_.get(), to = copied_.get() + half](Context&) {
    device.copy(to, from, half);
  };
  for (Set& set : sets_) set.problem.peer = {.name = "copy", .run = copy, .work = static_cast<double>(2 * half)};
}

void Measurement::begin(const Subject& subject) {
  sets_.clear();
  scratch_.reset();
  copied_.reset();
  subject_ = &subject;
  const auto& [operation, device, ceilings, dtype, model] = subject;
  failure_.clear();
  const std::string mistake = find_mistake(*device, operation, dtype, *model, Way::kOperation);
  if (!mistake.empty()) throw Error("wrong, and therefore not timed: " + mistake);
  const bool peer_is_right = verify_peer();

  const Shape shape = timed_shape(*model, device->backend().device());
  while (sets_.size() < kSets) {
    Set& set = sets_.emplace_back(Set{std::make_unique<Tensors>(*device, dtype), {}});
    set.problem = operation.make(*set.tensors, shape);
    if (!peer_is_right) set.problem.peer = {};
  }
  add_copy_peer();
  const Problem& problem = sets_.front().problem;
  const int64_t scratch_bytes = std::max(problem.scratch_bytes, problem.peer.scratch_bytes);
  scratch_ = device->memory().allocate(static_cast<size_t>(scratch_bytes));
  ctx_ = device->context();
  ctx_.workspace = {scratch_.get(), static_cast<size_t>(scratch_bytes)};
  for (const Set& set : sets_)
    if (set.problem.prepare) set.problem.prepare(ctx_);
  // What libraries choose once per shape.
  problem.run(ctx_);
  if (problem.peer.run) problem.peer.run(ctx_);
}

Measurement::Set& Measurement::next_set() {
  next_set_ = (next_set_ + 1) % sets_.size();
  return sets_[next_set_];
}

void Measurement::repeat(benchmark::State& state, const Subject& subject) {
  try {
    if (subject_ != &subject) begin(subject);
    if (!failure_.empty()) throw Error(failure_);
    const auto seconds = [&](const std::function<void(Context&)>& run) {
      subject.device->flush_caches();
      return subject.device->seconds([&] { run(ctx_); });
    };
    double own_s = 0, peer_s = 0;
    for ([[maybe_unused]] const auto _ : state) {
      const Problem& problem = next_set().problem;
      const double run_s = seconds(problem.run);
      state.SetIterationTime(run_s);
      own_s += run_s;
      if (problem.peer.run) peer_s += seconds(problem.peer.run);
    }
    const Problem& problem = sets_.front().problem;
    const auto runs = static_cast<double>(state.iterations());
    const double rate = runs * problem.work / own_s;
    state.counters[problem.unit == Unit::kBytes ? counter::kBytesPerSecond : counter::kFlopsPerSecond] = rate;
    state.counters[counter::kPercentOfCeiling] = 100 * rate / subject.ceilings->of(problem.unit, subject.dtype);
    state.counters[counter::kScratchBytes] = static_cast<double>(problem.scratch_bytes);
    if (problem.peer.run) {
      const double peer_rate = runs * problem.peer.work / peer_s;
      state.counters[counter::kPeerPerSecond] = peer_rate;
      state.counters[counter::kRatioToPeer] = rate / peer_rate;
      state.SetLabel(problem.peer.name);
    }
  } catch (const std::exception& error) {
    failure_ = error.what();
    failed_ = true;
    state.SkipWithError(error.what());
  }
}

void register_benchmark(Measurement& measurement, const Subject& subject) {
  const std::string name = format("{}/{}/{}/{}", subject.operation.name, subject.device->backend().name(),
                                  dtype_name(subject.dtype), subject.model->name);
  benchmark::RegisterBenchmark(name.c_str(), [&](benchmark::State& state) { measurement.repeat(state, subject); })
      ->Iterations(subject.device->runs_per_repetition())
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->ComputeStatistics(kLowerQuartile, lower_quartile)
      ->ComputeStatistics(kUpperQuartile, upper_quartile);
}

}  // namespace skippipe::bench
