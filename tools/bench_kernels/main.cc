// bench_kernels: times every operation on every backend, in every dtype, at the sizes of several models, and relates it
// to the machine's ceilings and to what a library needs for the same work. A table for people; JSON with
// --benchmark_out. Exit codes: 1 when an operation is wrong or fails, 2 for wrong use of the command line.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <string_view>

#include "base/error.h"
#include "base/format.h"
#include "tools/bench_kernels/measurement.h"
#include "tools/bench_kernels/options.h"
#include "tools/bench_kernels/table.h"

namespace skippipe::bench {
namespace {

struct Machine {
  std::unique_ptr<BenchDevice> device;
  Ceilings ceilings;
};

// For people and for the JSON.
void describe(const std::string& what, const std::string& value) {
  std::printf("%s: %s\n", what.c_str(), value.c_str());
  benchmark::AddCustomContext(what, value);
}

void describe(const Machine& machine) {
  const std::string name = machine.device->backend().name();
  describe(name, machine.device->description());
  describe(name + " ceiling, GB/s", format("{:.1f}", 1e-9 * machine.ceilings.bytes_per_s));
  for (const auto& [dtype, flops_per_s] : machine.ceilings.flops_per_s)
    describe(format("{} ceiling, {} GFLOP/s", name, dtype_name(dtype)), format("{:.1f}", 1e-9 * flops_per_s));
}

// Google Benchmark writes it into the JSON itself.
void print_date_and_load() {
  const std::time_t now = std::time(nullptr);
  char date[32] = "";
  std::strftime(date, sizeof(date), "%Y-%m-%d %H:%M", std::localtime(&now));
  double load = 0;
  getloadavg(&load, 1);
  std::printf("date: %s, load average %.2f\n", date, load);
}

// Those asked for, which must be there, or all that are.
std::deque<Machine> open_machines(const Options& options, bool measure) {
  std::deque<Machine> machines;
  const bool all = options.backends.empty();
  for (const std::string& backend : all ? std::vector<std::string>{"cpu", "cuda"} : options.backends) {
    std::string why_none;
    auto device = make_bench_device(backend, options.threads, why_none);
    if (!device && !all) throw DeviceError("--backend={}: {}", backend, why_none);
    if (!device) {
      if (measure) std::printf("%s: none, %s\n", backend.c_str(), why_none.c_str());
      continue;
    }
    Machine& machine = machines.emplace_back(Machine{std::move(device), {}});
    if (!measure) continue;
    machine.ceilings = measure_ceilings(*machine.device);
    describe(machine);
  }
  return machines;
}

std::vector<const Model*> models_for(const Options& options, const BenchDevice& device) {
  if (!options.models.empty()) return options.models;
  const size_t count = device.backend().device() == Device::kCpu ? 2 : all_models().size();
  std::vector<const Model*> models;
  for (const Model& model : all_models().first(count)) models.push_back(&model);
  return models;
}

std::deque<Subject> list_subjects(const Options& options, const std::deque<Machine>& machines) {
  std::deque<Subject> subjects;
  for (const Machine& machine : machines)
    for (const Operation& operation : all_operations())
      for (const Dtype dtype : options.dtypes.empty() ? std::vector{Dtype::kF32, Dtype::kBf16} : options.dtypes) {
        if (!machine.device->backend().computes_in(dtype) || (operation.f32_only && dtype != Dtype::kF32)) continue;
        if (operation.portable_attention && machine.device->portable_attention() == nullptr) continue;
        for (const Model* model : models_for(options, *machine.device))
          if (operation.is_attention || !model->attention_only)
            subjects.push_back({operation, machine.device.get(), &machine.ceilings, dtype, model});
      }
  return subjects;
}

int run(const Options& options, const std::string& command, bool only_list) {
  if (!only_list) {
    describe("command", command);
    print_date_and_load();
  }
  const std::deque<Machine> machines = open_machines(options, !only_list);
  const std::deque<Subject> subjects = list_subjects(options, machines);
  Measurement measurement;
  for (const Subject& subject : subjects) register_benchmark(measurement, subject);
  Table table;
  if (benchmark::RunSpecifiedBenchmarks(&table) == 0) throw UsageError("nothing to time");
  return measurement.failed() ? 1 : 0;
}

}  // namespace
}  // namespace skippipe::bench

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a file shows the table as it grows, too
  std::string command;
  bool only_list = false;
  // Google Benchmark takes its flags off the list; a later one overrides.
  std::string repetitions = "--benchmark_repetitions=11";
  std::vector<char*> arguments = {argv[0], repetitions.data()};
  for (int i = 0; i < argc; ++i) {
    if (i > 0) command += ' ';
    command += argv[i];
    only_list = only_list || std::string_view(argv[i]).starts_with("--benchmark_list_tests");
    if (i > 0) arguments.push_back(argv[i]);
  }
  auto count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data(), skippipe::bench::print_help);
  try {
    return skippipe::bench::run(skippipe::bench::parse_options(count, arguments.data()), command, only_list);
  } catch (const skippipe::Error& error) {
    std::fprintf(stderr, "bench_kernels: %s\n", error.what());
    return dynamic_cast<const skippipe::UsageError*>(&error) != nullptr ? 2 : 1;
  }
}
